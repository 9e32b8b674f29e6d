"""verify"""

from __future__ import annotations

SUMMARY = "verify"


def add_arguments(parser):
    pass


def run(args, context):
    return 0
