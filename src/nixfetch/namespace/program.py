"""Which program of a store path is meant, and becoming it. Knows nothing of mounts.

For a process that sees the path at /nix/store: links of a closure lead there.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from nixfetch.errors import NixfetchError
from nixfetch.formats.storepath import STORE_DIR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nixfetch.formats.storepath import StorePath

_VERSION = re.compile(r"-[^A-Za-z]")
# Python ignores them, and what is ignored stays so when another program takes over.
_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)


class ProgramError(NixfetchError):
    """It is there, and cannot be executed."""

    exit_code = 126


class NoProgramError(NixfetchError):
    """There is no such program."""

    exit_code = 127


class SeveralProgramsError(NixfetchError):
    """It could be any of several programs."""

    exit_code = 125


def find_program(
    path: StorePath, name: str | None = None, *, store_dir: Path | str = STORE_DIR
) -> str:
    """The program of `path` that is meant.

    Args:
        path: which.
        name: where it lies in `path`, such as ``bin/hello``. Without it: `path` itself if that
            is a file; else the only program of its ``bin``, hidden ones not counted; else the
            one that is called as the package, as `nix run` has it.
        store_dir: where `path` is in view.

    Returns:
        Its full name.

    Raises:
        NoProgramError: there is none.
        SeveralProgramsError: there are several, and none is called as the package.
    """
    place = Path(store_dir, path.base)
    if name is not None:
        return f"{place}/{name}"
    if not place.is_dir():
        return str(place)
    programs = _programs(place / "bin")
    if not programs:
        raise NoProgramError("the store path has no programs in bin", path=str(path))
    package = package_name(path.name)
    if len(programs) > 1 and package not in programs:
        raise SeveralProgramsError(
            "the store path has several programs",
            path=str(path),
            programs=programs,
            hint=f"say which: {path}/bin/{programs[0]}",
        )
    return f"{place}/bin/{package if package in programs else programs[0]}"


def package_name(name: str) -> str:
    """`name` without its version: ``hello`` for ``hello-2.12.1``.

    Source: nix, src/libstore/names.cc, `DrvName`.
    """
    return _VERSION.split(name, maxsplit=1)[0]


def execute(program: str, arguments: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Become `program`.

    Args:
        program: its full name, and the first of its arguments.
        arguments: the others.
        environ: its environment.

    Raises:
        NoProgramError: there is no such file.
        ProgramError: there is, but it cannot be executed.
    """
    for number in _IGNORED:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(program, [program, *arguments], environ)  # noqa: S606 - that is what it is for
    except OSError as error:
        raise _why_not(Path(program), error) from error


def _why_not(program: Path, error: OSError) -> NixfetchError:
    if not program.exists():
        link = program.is_symlink()
        return NoProgramError(
            "the program is a link to nothing" if link else "there is no such program",
            file=str(program),
            leads_to=str(program.readlink()) if link else None,
        )
    reason = os.strerror(error.errno or 0).lower()
    if isinstance(error, FileNotFoundError):
        reason = "its loader or interpreter is not there"
    elif program.is_dir():
        reason = "it is a directory"
    return ProgramError("the program cannot be executed", file=str(program), reason=reason)


def _programs(directory: Path) -> list[str]:
    """Names of the programs in `directory`, hidden ones left out, sorted."""
    try:
        files = sorted(directory.iterdir())
    except OSError:
        return []
    return [file.name for file in files if file.name[0] != "." and _is_program(file)]


def _is_program(file: Path) -> bool:
    return file.is_file() and os.access(file, os.X_OK)
