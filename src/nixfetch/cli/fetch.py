"""`nixfetch fetch PATH…`: store paths and all that they refer to, into the store.

Each PATH is a full store path, its base name, or a hash part alone, whose name the caches
know. Every path is verified before it is asked for and while it is unpacked, and is
registered when all its references are. Prints where the paths lie; with --dry-run, the
paths that would be fetched. -v says of each path where it came from and who signed it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from nixfetch.cli.context import Context
    from nixfetch.fetch import Report
    from nixfetch.store import LocalStore

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

    policy = context.policy()
    with context.caches() as caches:
        paths = context.paths(args.paths, caches=caches)
        with context.store() as store:
            failure = None
            with showing_progress(context) as progress:
                try:
                    report = fetch_closure(
                        paths,
                        caches=caches,
                        policy=policy,
                        store=store,
                        jobs=context.config.jobs,
                        whole=not args.no_closure,
                        dry_run=args.dry_run,
                        on_event=progress.show,
                    )
                except FetchFailedError as error:
                    failure, report = error, error.report
            if args.dry_run:
                _log_wanted(report)
            progress.summary(report)
            try:
                if context.config.json:
                    context.output.line(json.dumps(report.to_json()))
                else:
                    for line in _wanted(report) if args.dry_run else _done(report, store):
                        context.output.line(line)
                context.output.flush()
            finally:
                # It outranks a reader of stdout that went away.
                if failure is not None:
                    raise failure
    return 0


def _wanted(report: Report) -> Iterator[str]:
    from nixfetch.fetch import Status

    for path, entry in report.paths.items():
        if entry.status is Status.WANTED:
            yield str(path)


def _done(report: Report, store: LocalStore) -> Iterator[str]:
    lost = {entry.path for entry in report.failures}
    return (str(store.physical(path)) for path in report.requested if path not in lost)


def _log_wanted(report: Report) -> None:
    import logging

    from nixfetch.cli.progress import size
    from nixfetch.fetch import Status

    log = logging.getLogger(__name__)
    for entry in report.paths.values():
        if entry.status is Status.WANTED:
            download = size(entry.file_size or entry.nar_size or 0)
            unpacked = size(entry.nar_size or 0)
            log.info(
                "would fetch %s from %s, %s: %s to download, %s unpacked",
                entry.path,
                entry.cache,
                entry.vouched_for,
                download,
                unpacked,
            )
