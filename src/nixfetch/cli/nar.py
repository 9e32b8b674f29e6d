"""nar"""

from __future__ import annotations

SUMMARY = "nar"


def add_arguments(parser):
    pass


def run(args, context):
    return 0
