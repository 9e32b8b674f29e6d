"""What the stand-ins are asked on their command lines. Text in, values out; does no I/O.

Nix's own rules for what is understood here: flags and paths stand in any order, `-r`, `--realise`
and `--realize` are one operation, `--indirect` has meant nothing for long. All else is refused: who
calls for more has to be told, not to be given less.
Source: nix, src/nix/nix-store/nix-store.cc, `main_nix_store`, `opRealise`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from snapshotter.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

NIX_STORE: Final = "nix-store [--add-root LINK] --realise PATH..."
EXTERNAL_BUILDER: Final = "external-builder OUTLINK PATH"
_OPERATION = frozenset({"-r", "--realise", "--realize"})
_HINT = f"this is nixfetch in the place of nix-store; all it can do is: {NIX_STORE}"
_BUILDER_HINT = f"the command line is: {EXTERNAL_BUILDER}, where OUTLINK may be empty"


class CommandLineError(InvalidArgumentError):
    """The stand-in has no such flag, or not with these."""


@dataclass(frozen=True, slots=True)
class Realise:
    """Make paths valid, and keep them."""

    paths: tuple[str, ...]
    """As given."""
    link: str | None
    """Of the first one; the second one's is LINK-2, and so on. None: nothing keeps them."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Say something about the program itself."""

    what: str
    """``help`` or ``version``."""


def parse_nix_store(arguments: Sequence[str]) -> Realise | Tell:
    """Read what follows the name `nix-store`.

    Raises:
        CommandLineError: it makes no sense, or is something that only Nix can do.
    """
    operation, link, paths = False, None, []
    words = iter(arguments)
    for word in words:
        if word in _OPERATION:
            operation = True
        elif word == "--add-root":
            link = next(words, None)
            if link is None:
                raise CommandLineError("'--add-root' requires an argument", hint=_HINT)
        elif word in {"--help", "--version"}:
            return Tell(word.removeprefix("--"))
        elif word.startswith("-") and word != "--indirect":
            raise CommandLineError(f"unknown flag '{word}'", hint=_HINT)
        elif word != "--indirect":
            paths.append(word)
    if not operation:
        raise CommandLineError("no operation specified", hint=_HINT)
    return Realise(tuple(paths), link)


def parse_external_builder(arguments: Sequence[str]) -> Realise | Tell:
    """Read what follows the name of the external builder.

    Raises:
        CommandLineError: it is not OUTLINK PATH.
    """
    match arguments:
        case ["--help" | "--version" as flag]:
            return Tell(flag.removeprefix("--"))
        case [link, path] if path:
            return Realise((path,), link or None)
        case _:
            raise CommandLineError("two arguments are wanted", hint=_BUILDER_HINT)
