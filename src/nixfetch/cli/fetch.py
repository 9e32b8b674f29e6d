"""`nixfetch fetch PATH…`: store paths and all that they refer to, into the store.

Each PATH is a full store path, its base name, or a hash part alone, whose name the caches
know. Every path is verified before it is asked for and while it is unpacked, and is
registered when all its references are. Prints where the paths lie; with --dry-run, the
paths that would be fetched. -v says of each path where it came from and who signed it.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nixfetch.cli.roots import root_name
from nixfetch.cli.sizes import amount, size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from nixfetch.cache import CacheGroup
    from nixfetch.cli.context import Context
    from nixfetch.cli.progress import Progress
    from nixfetch.cli.unfinished import Unfinished
    from nixfetch.errors import NixfetchError
    from nixfetch.fetch import Report
    from nixfetch.fetch.progress import Event
    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import TrustPolicy
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
    parser.add_argument(
        "--root",
        metavar="NAME|LINK",
        action="append",
        type=root_name,
        default=[],
        help="keep the PATHs from the collector, see `nixfetch roots`; the second one as NAME-2, "
        "and so on; repeatable",
    )
    add_writing_flags(parser)


def add_writing_flags(parser: argparse.ArgumentParser) -> None:
    """Let `parser` know the flags that say how a store is written to."""
    parser.add_argument(
        "--min-free", metavar="SIZE", type=size, default=0, help="leave as much free on the disk"
    )
    parser.add_argument(
        "--no-dedup", action="store_true", help="do not link equal files of the store to each other"
    )
    parser.add_argument(
        "--no-fsync",
        action="store_true",
        help="do not wait for the disk: a power cut may leave valid paths with empty files",
    )


def run(args: argparse.Namespace, context: Context) -> int:
    from pathlib import Path

    from nixfetch.cli.unfinished import Unfinished
    from nixfetch.errors import StoreError

    policy = context.policy()
    with context.caches() as caches:
        paths, lost = context.known_paths(args.paths, caches=caches)
        if not paths:
            raise lost[0]
        _check_roots(args.root, len(paths))
        root = str(Path(context.config.store_root()).absolute())
        run = _Run(args, context, caches, policy, paths, Unfinished(root, paths))
        try:
            run.go(root)
        except StoreError as error:
            if context.config.json and not run.is_told:
                _print_json(run.unfinished.report(error), context)
            raise
    if lost:
        raise lost[0]
    return 0


@dataclass(slots=True)
class _Run:
    args: argparse.Namespace
    context: Context
    caches: CacheGroup
    policy: TrustPolicy
    paths: list[StorePath]
    unfinished: Unfinished
    is_told: bool = False
    """Whether the report is printed."""

    def go(self, root: str) -> None:
        """Fetch, and print what came of it."""
        from nixfetch.cli.progress import showing_progress

        with _opened(self.args, self.context) as store:
            with showing_progress(self.context) as progress:
                report, failure = self._fetch(store, progress)
            report.store = root  # a dry run may have worked on another, an empty one
            if self.args.dry_run:
                _log_wanted(report)
            progress.summary(report)
            try:
                self._conclude(report, store)
            finally:
                # It outranks a root that cannot be made, and a reader of stdout that went away.
                if failure is not None:
                    raise failure

    def _fetch(self, store: LocalStore, progress: Progress) -> tuple[Report, NixfetchError | None]:
        from nixfetch.fetch import FetchFailedError, fetch_closure

        def on_event(event: Event) -> None:
            self.unfinished.learn(event)
            progress.show(event)

        try:
            report = fetch_closure(
                self.paths,
                caches=self.caches,
                policy=self.policy,
                store=store,
                jobs=self.context.config.jobs,
                whole=not self.args.no_closure,
                dry_run=self.args.dry_run,
                min_free=self.args.min_free,
                on_event=on_event,
            )
        except FetchFailedError as error:
            return error.report, error
        return report, None

    def _conclude(self, report: Report, store: LocalStore) -> None:
        dry = self.args.dry_run
        try:
            if not dry:
                _keep(report, store, self.args.root)  # as long as it is held
        finally:
            self.is_told = True
            if self.context.config.json:
                _print_json(report, self.context)
        if not self.context.config.json:
            for line in _wanted(report) if dry else _done(report, store):
                self.context.output.line(line)
            self.context.output.flush()


def _print_json(report: Report, context: Context) -> None:
    context.output.line(json.dumps(report.to_json()))
    context.output.flush()


@contextmanager
def _opened(args: argparse.Namespace, context: Context) -> Iterator[LocalStore]:
    """The store; for a dry run as it is, and where there is none an empty one that goes again."""
    from tempfile import TemporaryDirectory

    from nixfetch.store import LocalStore
    from nixfetch.store.local import NotAStoreError

    with ExitStack() as stack:
        if not args.dry_run:
            store = context.store(durable=not args.no_fsync, dedup=not args.no_dedup)
        else:
            try:
                store = context.store(read_only=True)
            except NotAStoreError:
                store = LocalStore(stack.enter_context(TemporaryDirectory()))
        yield stack.enter_context(store)


def _check_roots(names: list[str], paths: int) -> None:
    """Refuse what cannot be the root of so many paths before anything is fetched."""
    from nixfetch.cli.context import UsageError
    from nixfetch.store.roots import RootNameError, numbered, parse_root

    try:
        for name in names:
            parse_root(numbered(name, paths))
    except RootNameError as error:
        raise UsageError(error.problem, hint=error.hint, **error.facts) from error


def _keep(report: Report, store: LocalStore, names: list[str]) -> None:
    """Make the roots of the requested paths that are there."""
    from nixfetch.store.roots import Roots, numbered

    lost = {entry.path for entry in report.failures}
    for name in names:
        for number, path in enumerate(report.requested, start=1):
            if path not in lost:
                Roots(store).add(numbered(name, number), path)


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

    from nixfetch.fetch import Status

    log = logging.getLogger(__name__)
    for entry in report.paths.values():
        if entry.status is Status.WANTED:
            download = amount(entry.file_size or entry.nar_size or 0)
            unpacked = amount(entry.nar_size or 0)
            log.info(
                "would fetch %s from %s, %s: %s to download, %s unpacked",
                entry.path,
                entry.cache,
                entry.vouched_for,
                download,
                unpacked,
            )
