"""Removing trees, by descriptors, whoever made them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import TypeAlias

from nixfetch.store.descent import Descent

_WRITABLE = 0o700
Farewell: TypeAlias = Callable[[int, bytes], Callable[[], None] | None]
"""Called with the directory and the name of what is about to be removed; what it returns is
called when that is gone."""


def remove_tree(parent_fd: int, name: bytes, *, farewell: Farewell | None = None) -> None:
    """Remove the file or tree `name` from the directory `parent_fd`; nothing there is fine.

    Makes read-only directories writable on its way, as an ordinary user must. Follows no link.

    Args:
        parent_fd: the directory.
        name: the name there.
        farewell: called before each file and link is removed, and before each directory is
            gone into.

    Raises:
        OSError: something could not be removed.
    """
    farewell = farewell or _nothing
    gone = _remove_plainly(parent_fd, name, farewell)
    if gone is None:
        return
    with Descent(parent_fd) as descent:
        path = [(name, gone)]
        pending = [_entries(descent, name)]
        while pending:
            if pending[-1]:
                below = pending[-1].pop()
                gone = _remove_plainly(descent.fd, below, farewell)
                if gone is not None:
                    path.append((below, gone))
                    pending.append(_entries(descent, below))
                continue
            pending.pop()
            descent.leave()
            directory, gone = path.pop()
            os.rmdir(directory, dir_fd=descent.fd)
            gone()


def _entries(descent: Descent, name: bytes) -> list[bytes]:
    """Go down into the directory `name` and list it."""
    mode = os.stat(name, dir_fd=descent.fd, follow_symlinks=False).st_mode
    if stat.S_ISDIR(mode) and mode & _WRITABLE != _WRITABLE:
        # Not through a link: this is a directory, in a directory that is ours.
        os.chmod(name, _WRITABLE, dir_fd=descent.fd)
    descent.enter(name)
    return list(map(os.fsencode, os.listdir(descent.fd)))  # noqa: PTH208 - a descriptor


def _remove_plainly(parent_fd: int, name: bytes, farewell: Farewell) -> Callable[[], None] | None:
    """Remove `name` unless it is a directory; what to call when that one is gone."""
    gone: Callable[[], None] | None = None
    try:
        gone = farewell(parent_fd, name)
        os.unlink(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return None
    except (IsADirectoryError, PermissionError):  # unlink of a directory: EISDIR on Linux
        status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            raise
        return gone or _nothing
    if gone is not None:
        gone()
    return None


def _nothing(*_: object) -> None:
    """What there is to be done where nobody asks for anything."""
