"""`nixfetch closure PATH…`: the paths and all that they refer to, references first.

Each PATH is a full store path, its base name, or a hash part alone, whose name the caches
know. Prints one path a line, or with --json one array, always in the same order. The narinfos
of the caches are all that is read, and only those to be believed count; with --local, the
store's database.

Whatever is printed is whole: when something is missing or not to be believed, neither it nor
what refers to it is printed, and the exit code says so.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from nixfetch.cli.context import Context
    from nixfetch.report import ClosureReport

SUMMARY = "store paths and all that they refer to, references first"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="whose closure")
    parser.add_argument("--local", action="store_true", help="ask the store, not the caches")


def run(args: argparse.Namespace, context: Context) -> int:
    from nixfetch.report import ClosureFailedError

    failure = None
    try:
        report = _closure(args, context)
    except ClosureFailedError as error:
        failure, report = error, error.report
    paths = list(map(str, report.paths))
    try:
        for line in [json.dumps(paths)] if context.config.json else paths:
            context.output.line(line)
        context.output.flush()
    finally:
        # It outranks a reader of stdout that went away.
        if failure is not None:
            raise failure
    return 0


def _closure(args: argparse.Namespace, context: Context) -> ClosureReport:
    from nixfetch.report import closure, references_in_store, trusted_references

    with ExitStack() as stack:
        if args.local:
            store = stack.enter_context(context.store(read_only=True))
            paths = context.paths(args.paths)
            return closure(paths, ask=partial(references_in_store, store=store), threads=1)
        policy = context.policy()
        caches = stack.enter_context(context.caches())
        paths = context.paths(args.paths, caches=caches)
        return closure(paths, ask=partial(trusted_references, caches=caches, policy=policy))
