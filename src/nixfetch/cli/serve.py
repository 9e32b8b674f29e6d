"""serve"""

from __future__ import annotations

SUMMARY = "serve"


def add_arguments(parser):
    pass


def run(args, context):
    return 0
