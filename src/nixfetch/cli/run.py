"""`nixfetch run PATH[/bin/PROGRAM] [ARGUMENT…]`: a program of a store path, without Nix.

The program sees all that PATH refers to at /nix/store, read-only, and nothing else there; for the
rest it sees what it would see anyway. What is missing of it is fetched first. Nothing is mounted
for anybody else, and nothing stays behind: the mounts are the program's own and end with it. An
ordinary user needs no rights, but a kernel that lets it make user namespaces.

Without /bin/PROGRAM it is the only program of PATH/bin, or the one that is called as the package.

All that stands behind PATH is for the program, flags too; a `--` right behind PATH is left out.
The exit code is the program's: 126 when it cannot be executed, 127 when it is not there, as in a
shell, and 125 when it did not come to that.
"""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, NoReturn

from nixfetch.cli.fetch import add_writing_flags

if TYPE_CHECKING:
    from pathlib import Path

    from nixfetch.cli.context import Context
    from nixfetch.errors import NixfetchError
    from nixfetch.formats.storepath import StorePath
    from nixfetch.store import LocalStore
    from nixfetch.store.present import Present

SUMMARY = "a program of a store path, which sees its closure at /nix/store"
VARIABLE = "NIXFETCH_RUN"
"""In the environment of the program: the store path."""
_FAILED = 125  # before there was a program


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "command",
        nargs=argparse.PARSER,
        metavar="PATH",
        help="the store path, or PATH/bin/PROGRAM; then the program's arguments",
    )
    add_writing_flags(parser)


def exit_code(error: NixfetchError) -> int:
    """What the command ends with for `error`."""
    from nixfetch.namespace.program import NoProgramError, ProgramError

    return error.exit_code if isinstance(error, ProgramError | NoProgramError) else _FAILED


def run(args: argparse.Namespace, context: Context) -> NoReturn:
    _load_all()
    from nixfetch.namespace import execute, find_program, show_closure

    text, name, arguments = words(args.command)
    with ExitStack() as stack:
        path, closure, store = _held(text, args, context, stack)
        show_closure(closure, store=store)
    program = find_program(path, name)
    # What a collector reads in an environment it keeps, and with it all that the path refers to.
    execute(program, arguments, {**context.environ, VARIABLE: str(path)})


def words(command: list[str]) -> tuple[str, str | None, list[str]]:
    """What was typed, taken apart: the store path, the program in it, its arguments."""
    # argparse leaves a `--` before the first word there, or takes it away, as its version has it.
    target, *arguments = command[1:] if command[0] == "--" else command
    if arguments[:1] == ["--"]:
        del arguments[0]
    from nixfetch.formats.storepath import STORE_DIR

    base, _, name = target.removeprefix(f"{STORE_DIR}/").partition("/")
    return base, name.strip("/") or None, arguments


def _load_all() -> None:
    """Load what may be needed to say what is wrong: Python may lie in a /nix/store of the host."""
    from nixfetch.cli import problems  # noqa: F401
    from nixfetch.streams import codecs  # noqa: F401


def _held(
    text: str, args: argparse.Namespace, context: Context, stack: ExitStack
) -> tuple[StorePath, tuple[Present, ...], Path]:
    """The store path that is meant, its closure, which `stack` holds, and where that lies."""
    from nixfetch.store.gone import TreeGoneError
    from nixfetch.store.local import NotAStoreError
    from nixfetch.store.present import NotPresentError, present_closure

    with suppress(NotAStoreError, NotPresentError, TreeGoneError):
        path = _path_in_store(text, context)
        with ExitStack() as attempt:
            store = attempt.enter_context(context.store(read_only=not _may_write(context)))
            store.hold([path])
            closure = present_closure([path], store)
            stack.push(attempt.pop_all())
            return path, closure, store.layout.store
    store = context.store(durable=not args.no_fsync, dedup=not args.no_dedup)
    stack.enter_context(store)
    path = _fetch(text, args, context, store)
    return path, present_closure([path], store), store.layout.store


def _may_write(context: Context) -> bool:
    """Whether there is a store that we may hold on to paths of."""
    from pathlib import Path

    from nixfetch.store.layout import Layout

    database = Layout(Path(context.config.store_root())).database
    return os.access(database, os.W_OK) and os.access(database / "db.sqlite", os.W_OK)


def _path_in_store(text: str, context: Context) -> StorePath:
    from nixfetch.plan.sources import MissingError
    from nixfetch.store.present import NotPresentError

    try:
        return context.paths([text])[0]
    except MissingError as error:
        raise NotPresentError(error.problem, hash_part=text) from error


def _fetch(text: str, args: argparse.Namespace, context: Context, store: LocalStore) -> StorePath:
    """Make all that is meant present."""
    from nixfetch.cli.progress import showing_progress
    from nixfetch.fetch import fetch_closure

    policy = context.policy()
    with context.caches() as caches:
        paths = context.paths([text], caches=caches)
        with showing_progress(context) as progress:
            report = fetch_closure(
                paths,
                caches=caches,
                policy=policy,
                store=store,
                jobs=context.config.jobs,
                min_free=args.min_free,
                on_event=progress.show,
            )
        progress.summary(report)
    return paths[0]
