"""The `nixfetch-snapshotter` command: Nix store paths as snapshots of containerd.

A verb is a module with SUMMARY, add_arguments(parser) and run(args) -> exit code, as those of
`nixfetch` are; its docstring, but for the first line, is what --help says.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

import nixfetch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

VERBS = {
    "serve": "snapshotter.serving",
    "image": "snapshotter.image_cli",
    "install": "snapshotter.install",
    "doctor": "snapshotter.doctor",
}
"""By the name that is typed: the module."""


def main() -> int:
    """Run the command line of this process; its exit code."""
    return run(sys.argv[1:])


def run(arguments: Sequence[str]) -> int:
    """Run one command line.

    Args:
        arguments: without the name of the program.

    Returns:
        The exit code.
    """
    try:
        args = parser(_named(arguments)).parse_args(arguments)
        code: int = import_module(VERBS[args.verb]).run(args)
        sys.stdout.flush()
    except nixfetch.NixfetchError as error:
        _show(error)
        return error.exit_code
    except BrokenPipeError:  # who reads our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def parser(verbs: Sequence[str] = tuple(VERBS)) -> argparse.ArgumentParser:
    """The parser of the command line.

    Args:
        verbs: whose arguments are wanted; nothing is imported for the others.
    """
    top = argparse.ArgumentParser(
        prog="nixfetch-snapshotter",
        description=(__doc__ or "").partition("\n")[0],
        allow_abbrev=False,
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    sub = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in verbs:
        module = import_module(VERBS[verb])
        summary, _, description = (module.__doc__ or "").partition("\n")
        own = sub.add_parser(
            verb,
            help=_summary(module, summary),
            description=description.strip() or summary,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(own)
    return top


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The whole command line, by what is typed (``nixfetch-snapshotter``, ``… serve``, …)."""
    found: dict[str, argparse.ArgumentParser] = {}
    waiting = [parser()]
    while waiting:
        this = waiting.pop(0)
        found[this.prog] = this
        for action in this._actions:  # noqa: SLF001 - argparse has no other way to ask
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - the same
                waiting += action.choices.values()
    return found


def _summary(module: ModuleType, otherwise: str) -> str:
    return str(getattr(module, "SUMMARY", otherwise))


def _named(arguments: Sequence[str]) -> tuple[str, ...]:
    """The verb that is meant; all of them where none is, for help and for complaints."""
    first = next((word for word in arguments if not word.startswith("-")), None)
    return (first,) if first in VERBS else tuple(VERBS)


class _Version(argparse.Action):
    """Looks for the version only when it is asked for."""

    def __call__(self, *_: object) -> NoReturn:
        from importlib.metadata import version

        sys.stdout.write(f"nixfetch-snapshotter {version('nixfetch')}\n")
        raise SystemExit(0)


def _show(error: nixfetch.NixfetchError) -> None:
    """Write `error` to stderr, as people read it."""
    lines = [f"error: {error.problem}"]
    lines += [f"  {name}: {_value(value)}" for name, value in error.facts.items()]
    if error.hint:
        lines.append(f"hint: {error.hint}")
    sys.stderr.write("\n".join(lines) + "\n")


def _value(value: object) -> str:
    text = str(value)
    return text if text.isprintable() else json.dumps(text)


if __name__ == "__main__":
    sys.exit(main())
