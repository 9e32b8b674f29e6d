"""The list of paths that a `closureInfo` of Nixpkgs holds: read without trust, line by line.

    /nix/store/<base of the closureInfo>/store-paths        full paths, one a line

Knows nothing of which of them are valid.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import nixfetch
from snapshotter.errors import PreconditionError
from snapshotter.labels import MAX_PATHS, MAX_VALUE

if TYPE_CHECKING:
    from nixfetch import StorePath

NAME = "store-paths"
MAX_SIZE = MAX_PATHS * (MAX_VALUE + 1)  # bytes
_SHOWN = 100  # characters of a bad line
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotAClosureError(PreconditionError):
    """What a label calls a closure has no list of paths that could be believed. Carries `path`."""


class NoListError(NotAClosureError):
    """It has none at all."""


def read(store_fd: int, closure: StorePath) -> list[StorePath]:
    """The paths that `closure` lists, as it has them.

    Args:
        store_fd: the store directory.
        closure: a path in it.

    Raises:
        NoListError: there is no such path, or no list in it.
        NotAClosureError: the list cannot be read, is too long, or a line is no store path.
    """
    try:
        data = _read(store_fd, closure.base)
    except FileNotFoundError as error:
        raise NoListError("closure has no list of its paths", path=closure, file=NAME) from error
    except OSError as error:
        raise NotAClosureError(
            "the list of a closure cannot be read", path=closure, reason=error.strerror
        ) from error
    return parse(data, closure)


def _read(store_fd: int, base: str) -> bytes:
    """The list in a path of the store, without following a link."""
    directory = os.open(base, _DIRECTORY, dir_fd=store_fd)
    try:
        fd = os.open(NAME, _READ, dir_fd=directory)
    finally:
        os.close(directory)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "no file")
        if status.st_size > MAX_SIZE:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        with open(fd, "rb", closefd=False) as file:
            return file.read(MAX_SIZE)
    finally:
        os.close(fd)


def parse(data: bytes, closure: StorePath) -> list[StorePath]:
    """The lines of a list; `closure` is for messages.

    Raises:
        NotAClosureError: there are too many, or one is no store path.
    """
    lines = data.decode("latin-1").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    if len(lines) > MAX_PATHS:
        raise NotAClosureError(
            "closure has too many paths", path=closure, paths=len(lines), limit=MAX_PATHS
        )
    try:
        return list(map(nixfetch.StorePath.parse_full, lines))
    except nixfetch.FormatError as error:
        raise NotAClosureError(
            "a line of the list of a closure is no store path",
            path=closure,
            line=ascii(error.facts.get("text", ""))[:_SHOWN],
            reason=error.problem,
        ) from error
