"""Locks of single store paths, by Nix's own protocol: who makes a path valid holds its lock.

    ROOT/nix/store/<base>.lock    flock'ed; empty while it counts. Its holder removes it and then
                                  writes "d" into it, so that who waited on the removed file sees
                                  that it has to look again.

Never waited for with anything else held up: `try_lock` answers at once, and whoever is told no
does something else meanwhile. So two processes that want the same closure cannot lock each
other up, whatever order they come in.

Source: nix, src/libstore/pathlocks.cc, `PathLocks::lockPaths`, `deleteLockFile`.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nixfetch.formats.storepath import StorePath

LOCK_SUFFIX = ".lock"
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o600
STALE = b"d"
"""What Nix writes; any other byte does."""


def lock_name(path: StorePath) -> str:
    """The lock of `path`, in the store directory."""
    return path.base + LOCK_SUFFIX


class PathLock:
    """The lock of one path, held. Release it once; closing the process gives it up too."""

    def __init__(self, store_fd: int, name: str, fd: int) -> None:
        self._store_fd = store_fd
        self._name = name
        self._fd = fd

    def release(self) -> None:
        """Give it up, and remove its file."""
        try:
            _remove(self._store_fd, self._name, self._fd)
        finally:
            os.close(self._fd)


def try_lock(store_fd: int, path: StorePath) -> PathLock | None:
    """Take the lock of `path`; None at once when somebody else has it.

    Raises:
        OSError: the file cannot be made or locked.
    """
    name = lock_name(path)
    while True:
        fd = os.open(name, _OPEN, _MODE, dir_fd=store_fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(fd).st_size:
                return PathLock(store_fd, name, fd)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            remove_stale_lock(store_fd, name)
            raise
        os.close(fd)  # its last holder removed it between our two calls


def remove_stale_lock(store_fd: int, name: str) -> bool:
    """Remove the lock file `name` unless somebody holds it; whether there was one to remove.

    Raises:
        OSError: it cannot be removed.
    """
    try:
        fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=store_fd)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_size:
            return False  # removed meanwhile
        _remove(store_fd, name, fd)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _remove(store_fd: int, name: str, fd: int) -> None:
    # In this order: a file that is removed and says so is not waited for.
    os.unlink(name, dir_fd=store_fd)
    mark_stale(fd)


def mark_stale(fd: int) -> None:
    """Let a file that was removed say so to whoever waits for its lock."""
    try:
        os.write(fd, STALE)
    except OSError:  # no room for a byte: a hole takes none, and its size is all that is asked for
        os.ftruncate(fd, len(STALE))
