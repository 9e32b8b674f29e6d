"""`nixfetch warm MANIFEST…`: keep what manifests name in the store, or in a mirror; for cron.

A MANIFEST is a list of store paths, one a line, or TOML with tables [[roots]] that name a list, a
channel's store-paths.xz, a build of Hydra, the pods of a cluster or a cache; `-` is standard
input. What they name is fetched with all that it refers to, and kept by roots that follow the
manifest: what leaves it is kept no more. A source that does not answer changes nothing.

A run with nothing to do asks no cache for anything. Two runs at a time do not get in each other's
way: the second one exits with 75, or waits with --wait. With --to URL paths go into a mirror, where
nothing is removed; see `nixfetch mirror prune`.

Prints a line for each path that came or failed. Exits with 0 when all is there, 3 when some paths
are not (in no cache, or a limit ended the run), 4, 5 or 6 when they failed; the rest is done.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, TypeVar

from nixfetch.cli.fetch import add_writing_flags
from nixfetch.cli.sizes import amount

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nixfetch.cache import CacheGroup
    from nixfetch.cli.context import Context
    from nixfetch.cli.progress import Progress
    from nixfetch.errors import NixfetchError
    from nixfetch.mirror import Destination
    from nixfetch.plan.trust import TrustPolicy
    from nixfetch.transport import Transport
    from nixfetch.warm import Limits, Manifest, Resolver, WarmReport
    from nixfetch.warm.run import Warming
    from nixfetch.warm.throttle import TimetableThrottle

SUMMARY = "keep what manifests name in the store, or in a mirror; for cron"
_STDIN = "-"
_STDIN_NAME = "stdin"  # of a manifest that has no file

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifests", nargs="+", metavar="MANIFEST", help="what to keep; - is stdin")
    parser.add_argument("--to", metavar="URL", help="into this mirror instead of the store")
    parser.add_argument("--wait", action="store_true", help="wait for another run to end")
    parser.add_argument("--lock", metavar="FILE", help="the lock that other runs look at")
    parser.add_argument(
        "--timetable",
        metavar="HH:MM-HH:MM=RATE",
        action="append",
        type=_slot,
        default=[],
        help="bytes a second to download at most at these times, local ones; repeatable",
    )
    parser.add_argument(
        "--max-duration", metavar="TIME", type=_duration, help="end after 90s, 30m or 2h"
    )
    parser.add_argument("--max-bytes", metavar="SIZE", type=_bytes, help="download no more")
    parser.add_argument("--report", metavar="FILE", help="write the report there, as JSON")
    parser.add_argument(
        "--textfile", metavar="FILE", help="write metrics there, for a node exporter"
    )
    add_writing_flags(parser)


def _slot(text: str) -> object:
    from nixfetch.plan.timetable import Slot
    from nixfetch.warm.manifest import parse_size

    times, _, rate = text.partition("=")
    return Slot.parse(times, _usable(parse_size, rate))


def _duration(text: str) -> float:
    from nixfetch.warm.manifest import parse_duration

    return _usable(parse_duration, text)


def _bytes(text: str) -> int:
    from nixfetch.warm.manifest import parse_size

    return _usable(parse_size, text)


def _usable(read: Callable[[str], _T], text: str) -> _T:
    from argparse import ArgumentTypeError

    from nixfetch.warm.manifest import ManifestError

    try:
        return read(text)
    except ManifestError as error:
        raise ArgumentTypeError(f"{text!r} is {error.problem}: say {error.hint}") from None


def run(args: argparse.Namespace, context: Context) -> int:
    from nixfetch.warm import only_one

    manifests = [_manifest(text) for text in args.manifests]
    with only_one(_lock(args, context), wait=args.wait):
        return _Run(args, context, manifests).go()


def _manifest(text: str) -> tuple[Manifest, Path]:
    """A manifest, and what the files that it names are relative to."""
    from pathlib import Path

    from nixfetch.errors import facts
    from nixfetch.warm import Manifest, ManifestError
    from nixfetch.warm.manifest import MAX_SIZE

    with facts(file=text):
        if text == _STDIN:
            with open(0, "rb", closefd=False) as stdin:
                return Manifest.parse(stdin.read(MAX_SIZE), name=_STDIN_NAME), Path.cwd()
        file = Path(text)
        try:
            with file.open("rb") as opened:
                raw = opened.read(MAX_SIZE)
        except OSError as error:
            reason = (error.strerror or "unknown").lower()
            raise ManifestError("cannot read the manifest", reason=reason) from error
        return Manifest.parse(raw, name=file.stem), file.parent


def _lock(args: argparse.Namespace, context: Context) -> Path:
    """Beside the store; for a mirror, which may be anywhere, where this user's files may be."""
    import hashlib
    import os
    import tempfile
    from pathlib import Path

    from nixfetch.store.layout import Layout

    if args.lock is not None:
        return Path(args.lock)
    if args.to is None:
        context.store(durable=False).close()  # makes it where there is none
        return Layout(Path(context.config.store_root())).partial.parent / "warm.lock"
    digest = hashlib.sha256(args.to.encode()).hexdigest()[:16]
    directory = context.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(directory) / f"nixfetch-warm-{os.getuid()}-{digest}.lock"


class _Run:
    def __init__(
        self, args: argparse.Namespace, context: Context, manifests: list[tuple[Manifest, Path]]
    ) -> None:
        self._args, self._context = args, context
        self._manifests = manifests

    def go(self) -> int:
        """Warm, and tell; the exit code."""
        from nixfetch.warm import resolve

        to = self._args.to
        target = self._context.config.store_root() if to is None else _shown(to)
        warming = resolve(list(self._resolvers()), target=str(target))
        try:
            self._warm(warming)
        except BaseException:
            warming.report.stopped = warming.report.stopped or "interrupted"
            self._write(warming.report)
            raise
        self._write(warming.report)
        self._print(warming.report)
        return warming.report.exit_code

    # What is wanted.

    def _resolvers(self) -> Iterator[tuple[Manifest, Resolver]]:
        from nixfetch.config.composed import retry_schedule
        from nixfetch.mirror.persist import Persistent
        from nixfetch.warm import Resolver

        persist = Persistent(retry_schedule(self._context.config))
        for manifest, directory in self._manifests:
            yield (
                manifest,
                Resolver(
                    transport=self._transport,
                    mirror=self._listed,
                    images=_paths_of_image,
                    persist=persist,
                    directory=directory,
                ),
            )

    def _transport(self, url: str, accept: str) -> Transport:
        from nixfetch.config.composed import transport_to

        context = self._context
        return transport_to(url, context.config, context.environ, accept=accept)

    def _listed(self, url: str) -> Destination:
        from nixfetch.mirror import open_configured_mirror

        return open_configured_mirror(url, self._context.config, self._context.environ)

    # Having it.

    def _warm(self, warming: Warming) -> None:
        from contextlib import ExitStack

        from nixfetch.cli.progress import showing_progress
        from nixfetch.config.composed import open_configured

        args, context = self._args, self._context
        policy = context.policy()
        with ExitStack() as stack:
            throttle = self._throttle()
            if throttle is not None:
                stack.callback(throttle.close)
            caches = stack.enter_context(
                open_configured(context.config, context.environ, throttle=throttle)
            )
            progress = stack.enter_context(showing_progress(context))
            stack.callback(progress.clear)
            if args.to is None:
                self._into_store(warming, caches, policy, progress)
            else:
                self._into_mirror(warming, caches, policy, progress)

    def _into_store(
        self, warming: Warming, caches: CacheGroup, policy: TrustPolicy, progress: Progress
    ) -> None:
        from nixfetch.warm import warm_store

        args, config = self._args, self._context.config
        with self._context.store(durable=not args.no_fsync, dedup=not args.no_dedup) as store:
            warm_store(
                warming,
                caches=caches,
                policy=policy,
                store=store,
                limits=self._limits(),
                jobs=config.jobs,
                min_free=args.min_free,
                on_event=progress.show,
            )

    def _into_mirror(
        self, warming: Warming, caches: CacheGroup, policy: TrustPolicy, progress: Progress
    ) -> None:
        from contextlib import closing

        from nixfetch.cli.mirror import opened_mirror
        from nixfetch.mirror import Sources
        from nixfetch.warm import warm_mirror

        args = self._args
        mirror = opened_mirror(args.to, self._context, durable=not args.no_fsync)
        with closing(mirror) as destination:
            warm_mirror(
                warming,
                sources=Sources(caches, policy),
                destination=destination,
                limits=self._limits(),
                on_event=progress.show,
            )

    def _limits(self) -> Limits:
        """Those of the command line, else the least of the manifests."""
        from nixfetch.warm import Limits

        limits = [manifest.limits for manifest, _ in self._manifests]
        sizes = [each.max_bytes for each in limits if each.max_bytes is not None]
        times = [each.max_duration for each in limits if each.max_duration is not None]
        args = self._args
        return Limits(
            max_bytes=args.max_bytes or min(sizes, default=None),
            max_seconds=args.max_duration or min(times, default=None),
        )

    def _throttle(self) -> TimetableThrottle | None:
        from nixfetch.plan.timetable import Timetable
        from nixfetch.warm.throttle import TimetableThrottle

        rate = self._context.config.bandwidth
        slots = tuple(self._args.timetable)
        for manifest, _ in self._manifests:
            slots += manifest.limits.timetable.slots
            if rate is None:
                rate = manifest.limits.timetable.otherwise
        if not slots and rate is None:
            return None
        return TimetableThrottle(Timetable(slots, rate))

    # Telling.

    def _write(self, report: WarmReport) -> None:
        from pathlib import Path

        from nixfetch.warm.report import textfile

        args = self._args
        if args.report is not None:
            _replace(Path(args.report), json.dumps(report.to_json(), indent=1) + "\n")
        if args.textfile is not None:
            file = Path(args.textfile)
            before = file.read_text(errors="replace") if file.is_file() else ""
            _replace(file, textfile(report, before=before))

    def _print(self, report: WarmReport) -> None:
        context = self._context
        if context.config.json:
            context.output.line(json.dumps(report.to_json()))
        else:
            for line in _lines(report):
                context.output.line(line)
        context.output.flush()
        self._log(report)

    def _log(self, report: WarmReport) -> None:
        from nixfetch.cli import logs, problems

        context = self._context
        problem: NixfetchError | None
        for problem in [report.failure, *(source.error for source in report.sources)]:
            if problem is not None:
                problems.show(problem, context.output, log_format=context.config.log_format)
        if context.config.verbosity >= 0:
            text = _summary(report)
            context.output.error(logs.line(context.config.log_format, logging.INFO, text))


def _lines(report: WarmReport) -> Iterator[str]:
    from nixfetch.cli.output import printable

    for entry in report.paths.values():
        if entry.status == "fetched":
            size = amount(entry.file_size or entry.nar_size or 0)
            yield printable(f"fetched {entry.path} from {entry.cache} {size}")
        elif entry.status == "failed":
            yield printable(f"failed {entry.path}: {entry.error}")


def _summary(report: WarmReport) -> str:
    fetched, present, failed, pending = (
        len(report.those(status)) for status in ("fetched", "present", "failed", "pending")
    )
    parts = [f"{fetched} fetched ({amount(report.bytes_downloaded)})", f"{present} there already"]
    parts += [f"{failed} failed"] if failed else []
    parts += [f"{pending} not come to"] if pending else []
    parts += [f"{report.unrooted} kept no more"] if report.unrooted else []
    parts += [f"ended by {report.stopped}"] if report.stopped else []
    return f"{', '.join(parts)}, in {report.seconds:.1f} s"


def _shown(url: str) -> str:
    from nixfetch.config.cacheurl import CacheUrl

    return CacheUrl.parse(url).display


def _replace(file: Path, text: str) -> None:
    """Write a file whole, so that no reader sees half of it."""
    import os
    import secrets

    from nixfetch.store.disk import disk_errors

    scratch = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    with disk_errors(file):
        try:
            scratch.write_text(text)
            os.replace(scratch, file)  # noqa: PTH105 - says the same
        except OSError:
            scratch.unlink(missing_ok=True)
            raise


def _paths_of_image(reference: str) -> tuple[str, ...]:
    """The store path that the reference of an image of ours names."""
    from snapshotter.errors import InvalidArgumentError
    from snapshotter.imageref import NIX_HOST, NixReference, parse

    try:
        parsed = parse(reference)
    except InvalidArgumentError as error:
        if reference.startswith(f"{NIX_HOST}/"):  # else it is somebody else's
            _log.warning("passing over the image %s: %s", reference, error)
        return ()
    return (str(parsed.path),) if isinstance(parsed, NixReference) else ()
