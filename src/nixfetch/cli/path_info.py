"""`nixfetch path-info PATH…`: what the caches say about store paths.

Each PATH is a full store path, its base name, or a hash part alone, whose name the caches
know. Shows the answer that `nixfetch fetch` would take; where it would take none, the first
cache's, and says on stderr why. With --local, shows what the store says instead.

The output is that of `nix path-info`, as text and as JSON. A path that is in no cache is null
in JSON, and the exit code 3. With --closure-size a path whose closure is not there is treated
alike.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from nixfetch.cli.context import Context
    from nixfetch.report import PathInfo, Survey

SUMMARY = "what the caches, or the store, say about store paths"
_MOST_PATHS = 3  # named in a warning; the rest is counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="what to look up")
    add = parser.add_argument
    add("-r", "--recursive", action="store_true", help="list all that the PATHs refer to as well")
    add("-s", "--size", action="store_true", help="print the size of each path, in bytes")
    add("-S", "--closure-size", action="store_true", help="print the size of each path's closure")
    add("--human-readable", action="store_true", help="print sizes in KiB and above")
    add("--sigs", action="store_true", help="print what vouches for each path")
    add(
        "--json-format",
        type=int,
        choices=(1, 2),
        default=1,
        help="with --json: which of Nix's formats (default: 1)",
    )
    add("--local", action="store_true", help="ask the store, not the caches")


def run(args: argparse.Namespace, context: Context) -> int:
    from nixfetch.report import SurveyFailedError

    failure = None
    try:
        report = _survey(args, context)
    except SurveyFailedError as error:
        failure, report = error, error.report
    _warn_of_doubts(report.listed)
    try:
        for line in _lines(report, args, as_json=context.config.json):
            context.output.line(line)
        context.output.flush()
    finally:
        # It outranks a reader of stdout that went away.
        if failure is not None:
            raise failure
    return 0


def _survey(args: argparse.Namespace, context: Context) -> Survey:
    from nixfetch.report import ask_caches, ask_store, survey

    look_up = partial(survey, recursive=args.recursive, closure_sizes=args.closure_size)
    with ExitStack() as stack:
        if args.local:
            store = stack.enter_context(context.store(read_only=True))
            paths = context.paths(args.paths)
            return look_up(paths, ask=partial(ask_store, store=store), threads=1)
        policy = context.policy()
        caches = stack.enter_context(context.caches())
        paths = context.paths(args.paths, caches=caches)
        return look_up(paths, ask=partial(ask_caches, caches=caches, policy=policy))


def _lines(report: Survey, args: argparse.Namespace, *, as_json: bool) -> Iterator[str]:
    from nixfetch.report import Columns, JsonFormat, document

    if as_json:
        value = document(report, JsonFormat(args.json_format))
        yield json.dumps(value, sort_keys=True, separators=(",", ":"))
        return
    columns = Columns(
        size=args.size,
        closure_size=args.closure_size,
        signatures=args.sigs,
        human_readable=args.human_readable,
    )
    yield from columns.lines(report)


def _warn_of_doubts(infos: Iterable[PathInfo]) -> None:
    """One warning a reason: a closure of 10^4 paths that nobody signed is one thing to say."""
    from nixfetch.cli import logs

    doubtful: dict[str, list[str]] = {}
    for info in infos:
        if info.doubt is not None:
            keys = info.doubt.facts.get("keys_seen")
            by = f" (signed by {', '.join(keys)})" if isinstance(keys, list) and keys else ""
            hint = f"; {info.doubt.hint}" if info.doubt.hint else ""
            reason = f"{info.doubt.problem}{by}{hint}"
            doubtful.setdefault(reason, []).append(str(info.path))
    for reason, paths in doubtful.items():
        more = len(paths) - _MOST_PATHS
        shown = ", ".join(paths[:_MOST_PATHS]) + (f" and {more} more" if more > 0 else "")
        logs.note(f"would not be fetched: {reason}: {shown}")
