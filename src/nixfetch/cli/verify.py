"""`nixfetch verify PATH…` or `--all`: whether paths of the store are what they should be.

Of each path: it is registered and there, what it refers to is too, enough trusted keys signed
it (unless it is content-addressed or was built here), and its files hash to what was registered.
Prints a line for each bad path. Changes nothing.

Exits with 0 when all are good, 4 when one is not (a PATH that is not valid in the store is not),
6 when something could not be read.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from nixfetch.cli.context import Context
    from nixfetch.errors import NixfetchError
    from nixfetch.verify import Verdict

SUMMARY = "whether paths of the store are what they should be"
NOT_GOOD = 4
UNREADABLE = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", metavar="PATH", help="what to verify")
    parser.add_argument("--all", action="store_true", help="every valid path of the store")
    parser.add_argument(
        "--no-contents", action="store_true", help="do not read the files of the paths"
    )


def run(args: argparse.Namespace, context: Context) -> int:
    from nixfetch.cli.context import UsageError
    from nixfetch.verify import verify_paths

    if bool(args.paths) == args.all:
        raise UsageError("say which paths to verify: PATH…, or --all")
    policy = context.policy()
    with context.store(read_only=True) as store:
        verdicts = verify_paths(
            store,
            store.all_valid() if args.all else context.paths(args.paths),
            policy=policy,
            contents=not args.no_contents,
            jobs=context.config.jobs,
            on_result=lambda verdict: _tell(verdict, context, every=args.all),
        )
    if args.all:
        # Collected since they were listed.
        verdicts = [verdict for verdict in verdicts if verdict.is_registered]
    if context.config.json:
        context.output.line(json.dumps(_report(verdicts, str(store.root), not args.no_contents)))
    return _exit_code(problem for verdict in verdicts for problem in verdict.problems)


def _tell(verdict: Verdict, context: Context, *, every: bool) -> None:
    from nixfetch.cli.output import printable

    if verdict.is_good or context.config.json or (every and not verdict.is_registered):
        return
    text = f"{verdict.path}: {'; '.join(map(_shown, verdict.problems))}"
    context.output.line(printable(text.replace("\n", "\\n")))


def _shown(problem: NixfetchError) -> str:
    facts = [
        f"{name.replace('_', ' ')} {_text(value)}"
        for name, value in problem.facts.items()
        if name != "path" and value not in (None, [], ())
    ]
    return f"{problem.problem} ({', '.join(facts)})" if facts else problem.problem


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value)


def _report(verdicts: list[Verdict], root: str, contents: bool) -> dict[str, Any]:
    from nixfetch.cli.problems import as_json

    return {
        "store": root,
        "contents": contents,
        "verified": len(verdicts),
        "bad": sum(not verdict.is_good for verdict in verdicts),
        "paths": [
            {
                "path": str(verdict.path),
                "good": verdict.is_good,
                "signed_by": list(verdict.signed_by),
                "content_addressed": verdict.content_addressed,
                "problems": [as_json(problem) for problem in verdict.problems],
            }
            for verdict in verdicts
        ],
    }


def _exit_code(problems: Iterable[NixfetchError]) -> int:
    from nixfetch.errors import StoreError

    code = 0
    for problem in problems:
        if isinstance(problem, StoreError):
            return UNREADABLE
        code = NOT_GOOD
    return code
