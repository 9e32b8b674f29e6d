"""Removing trees, by descriptors, whoever made them."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from nixfetch.store.descent import Descent

if TYPE_CHECKING:
    from collections.abc import Callable

_WRITABLE = 0o700


def remove_tree(
    parent_fd: int, name: bytes, *, farewell: Callable[[int, bytes], None] | None = None
) -> None:
    """Remove the file or tree `name` from the directory `parent_fd`; nothing there is fine.

    Makes read-only directories writable on its way, as an ordinary user must. Follows no link.

    Args:
        parent_fd: the directory.
        name: the name there.
        farewell: called before the removal of each file and link, with its directory and name.

    Raises:
        OSError: something could not be removed.
    """
    if _removed_plainly(parent_fd, name, farewell):
        return
    with Descent(parent_fd) as descent:
        path = [name]
        pending = [_entries(descent, name)]
        while pending:
            if pending[-1]:
                below = pending[-1].pop()
                if not _removed_plainly(descent.fd, below, farewell):
                    path.append(below)
                    pending.append(_entries(descent, below))
                continue
            pending.pop()
            descent.leave()
            os.rmdir(path.pop(), dir_fd=descent.fd)


def _entries(descent: Descent, name: bytes) -> list[bytes]:
    """Go down into the directory `name` and list it."""
    mode = os.stat(name, dir_fd=descent.fd, follow_symlinks=False).st_mode
    if stat.S_ISDIR(mode) and mode & _WRITABLE != _WRITABLE:
        # Not through a link: this is a directory, in a directory that is ours.
        os.chmod(name, _WRITABLE, dir_fd=descent.fd)
    descent.enter(name)
    return list(map(os.fsencode, os.listdir(descent.fd)))  # noqa: PTH208 - a descriptor


def _removed_plainly(
    parent_fd: int, name: bytes, farewell: Callable[[int, bytes], None] | None
) -> bool:
    """Remove `name` unless it is a directory; whether it is gone."""
    try:
        if farewell is not None:
            farewell(parent_fd, name)
        os.unlink(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return True
    except (IsADirectoryError, PermissionError):  # unlink of a directory: EISDIR on Linux
        status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            raise
        return False
    return True
