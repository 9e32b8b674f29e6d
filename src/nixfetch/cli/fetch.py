"""`nixfetch fetch PATH…`: store paths and all that they refer to, into the store.

Each PATH is a full store path, its base name, or a hash part alone, whose name the caches
know. Every path is verified before it is asked for and while it is unpacked, and is
registered when all its references are. Prints where the paths lie.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from nixfetch.cli.context import Context

SUMMARY = "store paths and all that they refer to, into the store"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="what to fetch")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be fetched, and fetch nothing"
    )
    parser.add_argument(
        "--no-closure",
        action="store_true",
        help="only the PATHs; what they refer to must be valid already",
    )


def run(args: argparse.Namespace, context: Context) -> int:
    from nixfetch.cli.progress import showing_progress
    from nixfetch.fetch import FetchFailedError, fetch_closure

    with context.caches() as caches:
        paths = context.paths(args.paths, caches=caches)
        with context.store() as store, showing_progress(context) as progress:
            failure = None
            try:
                report = fetch_closure(
                    paths,
                    caches=caches,
                    policy=context.policy(),
                    store=store,
                    jobs=context.config.jobs,
                    whole=not args.no_closure,
                    dry_run=args.dry_run,
                    on_event=progress.show,
                )
            except FetchFailedError as error:
                failure, report = error, error.report
            progress.summary(report)
        if context.config.json:
            context.output.line(json.dumps(report.to_json()))
        elif args.dry_run:
            for entry in report.paths.values():
                if entry.nar_size is not None:
                    context.output.line(str(entry.path))
        else:
            lost = {entry.path for entry in report.failures}
            for path in dict.fromkeys(paths):
                if path not in lost:
                    context.output.line(str(store.physical(path)))
    if failure is not None:
        raise failure
    return 0
