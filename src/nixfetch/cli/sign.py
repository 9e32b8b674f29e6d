"""sign"""

from __future__ import annotations

SUMMARY = "sign"


def add_arguments(parser):
    pass


def run(args, context):
    return 0
