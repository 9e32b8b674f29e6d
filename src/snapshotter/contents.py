"""What a layer that no label describes is made of: its own empty places for store paths.

Builders of Nix layers put an empty directory or file below ``nix/store`` for each path that is to
be mounted there. An ordinary layer that has a store in it has something in its paths: anything but
such places means that it is one, and nothing is derived from it.

The layer was written by whoever made the image: no link is followed, nothing but names is read.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING

import nixfetch
from snapshotter.errors import InternalError, InvalidArgumentError
from snapshotter.labels import MAX_PATHS

if TYPE_CHECKING:
    from pathlib import Path

    from nixfetch import StorePath

_STORE = ("nix", "store")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})  # there is no such directory


def store_paths(layer_dir: Path, *, most: int = MAX_PATHS) -> tuple[StorePath, ...]:
    """The paths that a layer has places for, ascending.

    Args:
        layer_dir: what the layer holds, and nothing of the layers below.
        most: paths that it may have places for.

    Returns:
        None of them for an ordinary layer: one without ``nix/store``, or with anything in it that
        is no empty directory or file with the name of a store path.

    Raises:
        InvalidArgumentError: there are more than `most`.
        InternalError: the layer cannot be read.
    """
    try:
        with ExitStack() as opened:
            at = _open(layer_dir, opened)
            try:
                for name in _STORE:
                    at = _open(name, opened, at)
            except OSError as error:
                if error.errno in _NONE:
                    return ()
                raise
            return _places(at, most)
    except OSError as error:
        raise InternalError(
            "layer cannot be read", directory=str(layer_dir), reason=error.strerror
        ) from error


def _places(store_fd: int, most: int) -> tuple[StorePath, ...]:
    found: list[StorePath] = []
    with os.scandir(store_fd) as entries:
        for entry in entries:
            path = _parsed(entry.name)
            if path is None or not _is_empty(entry.name, store_fd):
                return ()
            if len(found) <= most:  # an ordinary layer may have any number
                found.append(path)
    if len(found) > most:
        raise InvalidArgumentError("layer has places for too many store paths", limit=most)
    return tuple(sorted(found))


def _parsed(name: str) -> StorePath | None:
    try:
        return nixfetch.StorePath.parse(name)
    except nixfetch.FormatError:
        return None


def _is_empty(name: str, directory_fd: int) -> bool:
    """Whether it is an empty directory or an empty file."""
    status = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    if stat.S_ISREG(status.st_mode):
        return status.st_size == 0
    if not stat.S_ISDIR(status.st_mode):
        return False
    fd = os.open(name, _DIRECTORY, dir_fd=directory_fd)
    try:
        with os.scandir(fd) as entries:
            return next(entries, None) is None
    finally:
        os.close(fd)


def _open(name: Path | str, opened: ExitStack, dir_fd: int | None = None) -> int:
    fd = os.open(name, _DIRECTORY, dir_fd=dir_fd)
    opened.callback(os.close, fd)
    return fd
