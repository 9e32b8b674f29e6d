"""`nixfetch verify PATH…` or `--all`: whether paths of the store are what they should be.

Of each path: it is registered and there, what it refers to is too, enough trusted keys signed
it (unless it is content-addressed or was built here), and its files hash to what was registered.
With --all, also whether the database is sound, whether files that paths share are what they
should be, and what lies in the store and is no path of it. Prints a line for each bad path.
Modes, owners and times that are not those of a store, and what is left over, are only warned of
on stderr: the content is good. Bad shared files are counted there. Changes nothing, unless told to.

--repair fetches bad and lost paths anew from the caches and exchanges them in one step; what
runs from the old files keeps them until it ends. A cache that vouches for other content than
is registered is refused.

--rebuild-db makes a new database when the old one is damaged or lost: of each tree in the store
that the caches, or what can be read of the old one, vouch for. Trees that nobody vouches for stay,
and are listed; `nixfetch gc` asks before it takes them, `nix-store --gc` does not. The old database
is kept beside the new one.

Exits with 0 when all are good (or were made so), 4 when one is not (a PATH that is not valid in
the store is not), 6 when something could not be read.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable
    from pathlib import Path

    from nixfetch.cli.context import Context
    from nixfetch.errors import NixfetchError
    from nixfetch.store import LocalStore
    from nixfetch.verify import BadLink, Rebuilt, Verdict

SUMMARY = "whether paths of the store are what they should be"
NOT_GOOD = 4
UNREADABLE = 6
_MOST_LEFTOVERS = 10  # named in the warning; --json has all

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", metavar="PATH", help="what to verify")
    parser.add_argument("--all", action="store_true", help="the whole store")
    parser.add_argument(
        "--no-contents", action="store_true", help="do not read the files of the paths"
    )
    parser.add_argument("--repair", action="store_true", help="fetch anew what is not good")
    parser.add_argument(
        "--rebuild-db", action="store_true", help="make a database from what lies in the store"
    )


def run(args: argparse.Namespace, context: Context) -> int:
    from nixfetch.cli.context import UsageError

    context.output.goes_on = True  # the exit code is a verdict, whoever reads the lines
    if args.rebuild_db:
        if args.paths or args.all or args.repair or args.no_contents:
            raise UsageError("--rebuild-db goes with nothing else; verify afterwards")
        return _rebuild(context)
    if bool(args.paths) == args.all:
        raise UsageError("say which paths to verify: PATH…, or --all")
    return _Verification(args, context).go()


class _Verification:
    def __init__(self, args: argparse.Namespace, context: Context) -> None:
        self._args, self._context = args, context
        self._links: list[BadLink] = []
        self._leftovers: list[str] = []

    def go(self) -> int:
        from nixfetch.verify import leftovers, verify_links, verify_paths

        args, context = self._args, self._context
        policy = context.policy()
        with context.store(read_only=not args.repair) as store:
            if args.all:
                store.check_database()
            verdicts = verify_paths(
                store,
                store.all_valid() if args.all else context.paths(args.paths),
                policy=policy,
                contents=not args.no_contents,
                jobs=context.config.jobs,
                on_result=self._tell,
            )
            if args.all and not args.no_contents:
                self._links = verify_links(store, jobs=context.config.jobs)
            if args.repair:
                verdicts = self._repair(store, verdicts)
            if args.all:
                self._leftovers = leftovers(store)
                # Collected since they were listed.
                verdicts = [verdict for verdict in verdicts if verdict.is_registered]
        self._warn(verdicts)
        if context.config.json:
            context.output.line(json.dumps(self._report(verdicts, str(store.root))))
        problems = [problem for verdict in verdicts for problem in verdict.problems]
        return _exit_code([*problems, *(bad.problem for bad in self._links)])

    def _repair(self, store: LocalStore, verdicts: list[Verdict]) -> list[Verdict]:
        from nixfetch.verify import repair_links, repair_paths

        context = self._context
        with context.caches() as caches:
            verdicts = repair_paths(
                store,
                verdicts,
                caches=caches,
                policy=context.policy(),
                jobs=context.config.jobs,
                on_result=self._tell_repaired,
            )
        self._links = repair_links(store, self._links)
        return verdicts

    def _tell(self, verdict: Verdict) -> None:
        if not (verdict.is_good or (self._args.all and not verdict.is_registered)):
            self._line(f"{verdict.path}: {'; '.join(map(_shown, verdict.problems))}")

    def _tell_repaired(self, verdict: Verdict) -> None:
        if not verdict.is_good:
            self._line(f"{verdict.path}: not repaired: {_shown(verdict.problems[-1])}")
        elif verdict.repaired_from is not None:
            self._line(f"{verdict.path}: repaired from {verdict.repaired_from}")
        elif verdict.repaired:
            self._line(f"{verdict.path}: repaired")

    def _line(self, text: str) -> None:
        from nixfetch.cli.output import printable

        if not self._context.config.json:
            self._context.output.line(printable(text.replace("\n", "\\n")))

    def _warn(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            for warning in verdict.warnings if verdict.is_good else ():
                _log.warning("%s: %s", verdict.path, _shown(warning))
        if self._links:
            first = self._links[0].problem
            count = f"{len(self._links)} bad file{'s' * (len(self._links) != 1)} in .links"
            first_one = ", the first" if len(self._links) > 1 else ""
            _log.warning("%s%s: %s", count, first_one, _shown(first))
        if self._leftovers:
            more = len(self._leftovers) - _MOST_LEFTOVERS
            _log.warning(
                "no valid path, so garbage: %s%s",
                " ".join(self._leftovers[:_MOST_LEFTOVERS]),
                f" and {more} more" if more > 0 else "",
            )

    def _report(self, verdicts: list[Verdict], root: str) -> dict[str, Any]:
        from nixfetch.cli.problems import as_json

        return {
            "store": root,
            "contents": not self._args.no_contents,
            "verified": len(verdicts),
            "bad": sum(not verdict.is_good for verdict in verdicts),
            "paths": [
                {
                    "path": str(verdict.path),
                    "good": verdict.is_good,
                    "signed_by": list(verdict.signed_by),
                    "content_addressed": verdict.content_addressed,
                    "problems": [as_json(problem) for problem in verdict.problems],
                    "warnings": [as_json(warning) for warning in verdict.warnings],
                    "repaired": [as_json(problem) for problem in verdict.repaired],
                    "repaired_from": verdict.repaired_from,
                }
                for verdict in verdicts
            ],
            "links": [{"name": bad.name, "problem": as_json(bad.problem)} for bad in self._links],
            "leftovers": self._leftovers,
        }


def _rebuild(context: Context) -> int:
    from pathlib import Path

    from nixfetch.errors import facts
    from nixfetch.verify import rebuild_database

    root = Path(context.config.store_root())
    with context.caches() as caches, facts(store=str(root)):
        rebuilt = rebuild_database(
            root, caches=caches, policy=context.policy(), jobs=context.config.jobs
        )
    _tell_rebuilt(rebuilt, root.absolute(), context)
    return _exit_code(one.problem for one in rebuilt.left)


def _tell_rebuilt(rebuilt: Rebuilt, root: Path, context: Context) -> None:
    from nixfetch.cli import logs
    from nixfetch.cli.problems import as_json

    if rebuilt.old_database is not None:
        _log.warning("the old database is %s", rebuilt.old_database)
    if rebuilt.left and (rebuilt.replaced or rebuilt.kept):
        _log.warning(
            "what is listed is not registered: `nix-store --gc` would delete it, `nixfetch gc` asks"
        )
    elif rebuilt.left:
        _log.warning("nothing could be recovered; the old database stays where it is")
    if context.config.json:
        report = {
            "store": str(root),
            "recovered": list(map(str, rebuilt.recovered)),
            "kept": list(map(str, rebuilt.kept)),
            "left": [
                {"path": str(one.path), "problem": as_json(one.problem)} for one in rebuilt.left
            ],
            "replaced": rebuilt.replaced,
            "old_database": None if rebuilt.old_database is None else str(rebuilt.old_database),
        }
        context.output.line(json.dumps(report))
    else:
        _list_left(rebuilt, context)
    if context.config.verbosity >= 0 and (text := _summary(rebuilt)):
        context.output.error(logs.line(context.config.log_format, logging.INFO, text))


def _summary(rebuilt: Rebuilt) -> str:
    """What was done, in a line; nothing when that is nothing, which was said."""
    count = len(rebuilt.recovered)
    paths = f"{count} path{'s' * (count != 1)}"
    left = f", {len(rebuilt.left)} not" if rebuilt.left else ""
    if rebuilt.replaced:
        return f"made a new database: {paths} registered{left}"
    if rebuilt.kept or rebuilt.recovered or not rebuilt.left:
        return f"the database is sound: {len(rebuilt.kept)} registered before, {count} added{left}"
    return ""


def _list_left(rebuilt: Rebuilt, context: Context) -> None:
    from nixfetch.cli.output import printable

    for one in rebuilt.left:
        text = f"{one.path}: not registered: {_shown(one.problem)}"
        context.output.line(printable(text.replace("\n", "\\n")))


def _shown(problem: NixfetchError) -> str:
    facts = [
        f"{name.replace('_', ' ')} {_text(value)}"
        for name, value in problem.facts.items()
        if name != "path" and value not in (None, [], ())
    ]
    text = f"{problem.problem} ({', '.join(facts)})" if facts else problem.problem
    answers: tuple[tuple[str, NixfetchError], ...] = getattr(problem, "errors", ())
    return "; ".join([text, *(f"{url}: {_shown(answer)}" for url, answer in answers)])


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value)


def _exit_code(problems: Iterable[NixfetchError]) -> int:
    from nixfetch.errors import StoreError

    code = 0
    for problem in problems:
        if isinstance(problem, StoreError):
            return UNREADABLE
        code = NOT_GOOD
    return code
