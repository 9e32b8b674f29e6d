"""closure"""

from __future__ import annotations

SUMMARY = "closure"


def add_arguments(parser):
    pass


def run(args, context):
    return 0
