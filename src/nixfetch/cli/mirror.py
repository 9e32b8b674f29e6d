"""`nixfetch mirror --to URL PATH…`: closures from caches into a cache of one's own.

Copies each PATH and all that it refers to from the caches (--from) into a bucket or a directory.
Narinfos and NARs stay byte for byte, so signatures stay good. Each path is trusted before its
NAR is asked for, and its file is checked on the way. A narinfo is written when its NAR and the
narinfos of all its references are there: however a run ends, the mirror is whole, and the next
run goes on. What the mirror has is not copied again.

`nixfetch mirror verify URL` looks at a mirror: signatures, references, files. Exits with 4 when
something is bad. With --repair-from, what is bad is copied anew.

`nixfetch mirror prune URL --keep-roots PATH|FILE…` removes what the kept paths do not need. It
refuses where the mirror lacks something that they do need.
"""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING

from nixfetch.cli.sizes import amount

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from nixfetch.cache import CacheGroup
    from nixfetch.cli.context import Context
    from nixfetch.errors import NixfetchError
    from nixfetch.fetch.progress import Event
    from nixfetch.formats.storepath import StorePath
    from nixfetch.mirror import Destination, MirrorReport, Recipe
    from nixfetch.mirror.verify import Finding

SUMMARY = "closures from caches into a bucket or a directory, byte for byte"
NOT_GOOD = 4
_ACTIONS = ("verify", "prune")
_MOST_SHOWN = 20  # failed paths named one by one
_ALL = 100.0  # percent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="what to copy; or `verify URL`, or `prune URL`",
    )
    parser.add_argument("--to", metavar="URL", help="the mirror: s3://bucket/prefix, file:///dir")
    parser.add_argument(
        "--verify-nar", action="store_true", help="decode each NAR on the way, and check its hash"
    )
    parser.add_argument(
        "--recompress",
        choices=("zstd",),
        help="compress NARs anew, in frames of 1 MiB with a table, so that parts can be read",
    )
    parser.add_argument(
        "--level", metavar="N", type=_level, help="of that compression, 1 to 22; 9 by default"
    )
    parser.add_argument("--sign", metavar="FILE", help="sign with this secret key too")
    parser.add_argument(
        "--listing", action="store_true", help="write a listing (.ls) beside each narinfo"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be copied or removed; change nothing"
    )
    parser.add_argument("--no-fsync", action="store_true", help="do not wait for the disk")
    of_verify = parser.add_argument_group("of `mirror verify`")
    of_verify.add_argument(
        "--sample",
        metavar="P",
        type=_percent,
        help="read the NARs of so many percent of the paths, others at every run; all by default",
    )
    of_verify.add_argument(
        "--repair-from",
        metavar="URL",
        action="append",
        default=[],
        help="copy what is bad anew from this cache; repeatable",
    )
    of_prune = parser.add_argument_group("of `mirror prune`")
    of_prune.add_argument(
        "--keep-roots",
        metavar="PATH|FILE",
        action="append",
        nargs="+",
        default=[],
        help="keep these paths and all that they refer to; a FILE has one a line",
    )


def _level(text: str) -> int:
    from argparse import ArgumentTypeError

    if not text.isdecimal() or not 1 <= int(text) <= 22:  # noqa: PLR2004 - zstd's own
        raise ArgumentTypeError(f"{text!r} is no level: say 1 to 22")
    return int(text)


def _percent(text: str) -> float:
    """A share of the whole, from 0 to 1."""
    from argparse import ArgumentTypeError

    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= _ALL:
        raise ArgumentTypeError(f"{text!r} is no percentage: say 10 or 0.5%")
    return percent / _ALL


def run(args: argparse.Namespace, context: Context) -> int:
    action = args.paths[0] if args.paths[0] in _ACTIONS else "copy"
    _check(args, action)
    if action == "verify":
        return _verify(args, context)
    if action == "prune":
        return _prune(args, context)
    return _copy(args, context)


_OPTIONS = {
    "copy": {"to", "verify_nar", "recompress", "level", "sign", "listing", "dry_run", "no_fsync"},
    "verify": {"sample", "repair_from", "no_fsync"},
    "prune": {"keep_roots", "dry_run", "no_fsync"},
}


def _check(args: argparse.Namespace, action: str) -> None:
    """Refuse what does not go together."""
    from nixfetch.cli.context import UsageError

    for option in set().union(*_OPTIONS.values()) - _OPTIONS[action]:
        if getattr(args, option) not in (None, False, []):
            verb = "mirror" if action == "copy" else f"mirror {action}"
            raise UsageError(f"--{option.replace('_', '-')} is not for `nixfetch {verb}`")
    if action == "copy" and args.to is None:
        raise UsageError("say where the mirror is: --to s3://… or file://…")
    if action == "copy" and args.level is not None and args.recompress is None:
        raise UsageError("--level goes with --recompress zstd")
    if action != "copy" and len(args.paths) != len((action, "URL")):
        raise UsageError(f"say which mirror: `nixfetch mirror {action} URL`")
    if action == "prune" and not args.keep_roots:
        raise UsageError(
            "say what to keep: --keep-roots PATH… or a FILE of them",
            hint="to keep nothing, remove the directory or the bucket",
        )


def opened_mirror(text: str, context: Context, *, durable: bool) -> Destination:
    """Open the mirror of a URL on the command line.

    Raises:
        UsageError: it is none.
    """
    from nixfetch.cli.context import UsageError
    from nixfetch.config import ConfigError
    from nixfetch.mirror import open_configured_mirror
    from nixfetch.transport import UrlError

    try:
        return open_configured_mirror(text, context.config, context.environ, durable=durable)
    except (UrlError, ConfigError) as error:
        raise UsageError(error.problem, hint=error.hint, **error.facts) from error


def _recipe(args: argparse.Namespace) -> Recipe:
    from pathlib import Path

    from nixfetch.mirror import Recipe
    from nixfetch.store.keyfile import read_secret_key
    from nixfetch.streams.seekable import LEVEL

    return Recipe(
        verify_nar=args.verify_nar,
        recompress=args.recompress is not None,
        level=args.level or LEVEL,
        listing=args.listing,
        key=None if args.sign is None else read_secret_key(Path(args.sign)),
    )


# Copying.


def _copy(args: argparse.Namespace, context: Context) -> int:
    from contextlib import closing

    from nixfetch.cli.progress import showing_progress
    from nixfetch.mirror import DestinationError, Sources, mirror_closure

    recipe, policy = _recipe(args), context.policy()
    with (
        closing(opened_mirror(args.to, context, durable=not args.no_fsync)) as destination,
        context.caches() as caches,
    ):
        paths, lost = context.known_paths(args.paths, caches=caches)
        if not paths:
            raise lost[0]

        def copy(on_event: Callable[[Event], None]) -> MirrorReport:
            return mirror_closure(
                paths,
                sources=Sources(caches, policy),
                destination=destination,
                recipe=recipe,
                copies=context.config.jobs,
                dry_run=args.dry_run,
                on_event=on_event,
            )

        report, failure = None, None
        try:
            with showing_progress(context) as progress:
                report, failure = _attempted(lambda: copy(progress.show))
                progress.clear()
        except DestinationError as error:
            report = error.so_far
            raise
        finally:
            if report is not None:
                _print(report, args, context)
    if failure is not None or lost:
        raise failure or lost[0]
    return 0


def _attempted(copy: Callable[[], MirrorReport]) -> tuple[MirrorReport, NixfetchError | None]:
    from nixfetch.mirror import MirrorFailedError

    try:
        return copy(), None
    except MirrorFailedError as error:
        return error.report, error


def _print(report: MirrorReport, args: argparse.Namespace, context: Context) -> None:
    """The report; or the paths that were copied, and their sum on stderr."""
    from nixfetch.cli import logs
    from nixfetch.mirror import MirrorStatus

    if context.config.verbosity >= 0:
        text = summary(report, dry_run=args.dry_run)
        context.output.error(logs.line(context.config.log_format, logging.INFO, text))
    if context.config.json:
        context.output.line(json.dumps(report.to_json()))
    else:
        status = MirrorStatus.WANTED if args.dry_run else MirrorStatus.COPIED
        for entry in report.those(status):
            context.output.line(str(entry.path))
    context.output.flush()


def summary(report: MirrorReport, *, dry_run: bool = False) -> str:
    """What a run came to, in a line."""
    from nixfetch.mirror import MirrorStatus

    present = len(report.those(MirrorStatus.PRESENT))
    failed = len(report.failures)
    if dry_run:
        wanted = report.those(MirrorStatus.WANTED)
        size = sum(entry.file_size or entry.nar_size or 0 for entry in wanted)
        done = f"would copy {_paths(len(wanted))} ({amount(size)})"
    else:
        copied = len(report.those(MirrorStatus.COPIED))
        done = f"copied {_paths(copied)} ({amount(report.bytes_sent)} sent)"
    more = [f"{present} there already"] if present else []
    more += [f"{failed} failed"] if failed else []
    more += [f"stopped: {report.stopped}"] if report.stopped else []
    return ", ".join([done, *more, f"in {report.seconds:.1f} s"])


def _paths(count: int) -> str:
    return f"{count} path{'s' * (count != 1)}"


# Verifying.


def _verify(args: argparse.Namespace, context: Context) -> int:
    from contextlib import ExitStack

    from nixfetch.mirror import Sources
    from nixfetch.mirror.verify import repair_mirror, verify_mirror

    context.output.goes_on = True  # the exit code is a verdict, whoever reads the lines
    policy = context.policy()
    with ExitStack() as stack:
        mirror = opened_mirror(args.paths[1], context, durable=not args.no_fsync)
        stack.callback(mirror.close)
        findings = verify_mirror(
            mirror,
            policy=policy,
            share=1.0 if args.sample is None else args.sample,
            jobs=context.config.jobs or os.cpu_count() or 1,
            on_bad=lambda finding: _tell(finding, context),
        )
        if args.repair_from:
            caches = stack.enter_context(_caches(args.repair_from, context))
            repair_mirror(
                mirror,
                findings,
                sources=Sources(caches, policy),
                on_repaired=lambda finding: _tell_repaired(finding, context),
            )
    bad = [finding for finding in findings.bad if not finding.is_repaired]
    if context.config.json:
        context.output.line(json.dumps(findings.to_json()))
    elif context.config.verbosity >= 0:
        context.output.error(
            f"looked at {_paths(findings.looked_at)}, read {amount(findings.bytes_read)} of NARs:"
            f" {len(bad)} bad"
        )
    context.output.flush()
    return NOT_GOOD if bad else 0


def _caches(urls: list[str], context: Context) -> CacheGroup:
    from dataclasses import replace

    from nixfetch.config.composed import open_configured

    return open_configured(replace(context.config, substituters=tuple(urls)), context.environ)


def _tell(finding: Finding, context: Context) -> None:
    from nixfetch.cli.output import printable

    if not context.config.json:
        context.output.line(printable(f"{finding.subject}: {finding.error}"))


def _tell_repaired(finding: Finding, context: Context) -> None:
    if not context.config.json:
        done = "repaired" if finding.is_repaired else f"not repaired: {finding.repair_error}"
        context.output.line(f"{finding.subject}: {done}")


# Pruning.


def _prune(args: argparse.Namespace, context: Context) -> int:
    from contextlib import closing

    from nixfetch.mirror.prune import prune_mirror

    roots = _kept(args.keep_roots)
    with closing(opened_mirror(args.paths[1], context, durable=not args.no_fsync)) as mirror:
        pruned = prune_mirror(mirror, keep=roots, dry_run=args.dry_run)
    if context.config.json:
        context.output.line(json.dumps(pruned.to_json()))
    else:
        for path in pruned.removed:
            context.output.line(str(path))
    if context.config.verbosity >= 0:
        would = "would remove" if args.dry_run else "removed"
        context.output.error(
            f"{would} {_paths(len(pruned.removed))} and {amount(pruned.bytes_freed)} of files;"
            f" kept {_paths(pruned.kept)}"
        )
    context.output.flush()
    return 0


def _kept(given: list[list[str]]) -> list[StorePath]:
    """The store paths that are named, one by one or in files."""
    from pathlib import Path

    from nixfetch.cli.context import UsageError
    from nixfetch.formats.storepath import STORE_DIR, StorePath, StorePathError

    texts: list[str] = []
    for text in (text for texts in given for text in texts):
        file = Path(text)
        if text.startswith(STORE_DIR + "/") or not file.is_file():
            texts.append(text)
            continue
        texts += [line for line in file.read_text().split() if line]
    paths = []
    for text in texts:
        try:
            paths.append(StorePath.parse(text.removeprefix(STORE_DIR + "/")))
        except StorePathError as error:
            raise UsageError(
                f"neither a store path nor a file: {text[:200]}", reason=error.problem
            ) from error
    return paths
