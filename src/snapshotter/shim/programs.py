"""The programs that are installed: small scripts, as text. Does no I/O."""

from __future__ import annotations

from typing import Final

from snapshotter.errors import InvalidArgumentError
from snapshotter.fragments import MARK, File

NAMES: Final = {"nix-store": "nix_store", "external-builder": "external_builder"}
"""By the name of the program: the function of `snapshotter.shim` that it is."""
MODE: Final = 0o755
MAX_INTERPRETER = 120  # bytes of a `#!` line that every kernel takes, less its ends

_DIRECT = "#!{python} -I\n"
# Read by sh, it becomes the interpreter; read by that, it is a string that nobody wants.
_BY_SHELL = "#!/bin/sh\n'''exec' {quoted} -I \"$0\" \"$@\"\n' '''\n"
_SCRIPT = """\
# {mark}
import sys

sys.path.append({library!r})  # for a Python that has nixfetch elsewhere than where it looks

from snapshotter.shim import {function}

sys.exit({function}())
"""


def programs(directory: str, *, python: str, library: str) -> tuple[File, ...]:
    """The programs, to be executable. The mark of ours is in the second line, or the fourth.

    Args:
        directory: where they are to be.
        python: the interpreter that has nixfetch; absolute.
        library: the directory that the package `snapshotter` lies in.

    Raises:
        InvalidArgumentError: a path that no script can name.
    """
    for path in (python, library):
        if not path.startswith("/") or not path.isprintable():
            raise InvalidArgumentError("a script cannot name that path", path=path)
    return tuple(
        File(f"{directory}/{name}", _head(python) + _body(library, function), MODE)
        for name, function in NAMES.items()
    )


def _head(python: str) -> str:
    if len(python.encode()) <= MAX_INTERPRETER and " " not in python:
        return _DIRECT.format(python=python)
    quoted = "'" + python.replace("'", "'\"'\"'") + "'"
    return _BY_SHELL.format(quoted=quoted)


def _body(library: str, function: str) -> str:
    return _SCRIPT.format(mark=MARK, library=library, function=function)
