"""path_info"""

from __future__ import annotations

SUMMARY = "path_info"


def add_arguments(parser):
    pass


def run(args, context):
    return 0
