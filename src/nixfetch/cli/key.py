"""key"""

from __future__ import annotations

SUMMARY = "key"


def add_arguments(parser):
    pass


def run(args, context):
    return 0
