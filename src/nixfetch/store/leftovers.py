"""What lies in the store directory and is no valid path: left behind, or in the making.

Garbage, to Nix and to us, unless somebody who lives is at work on it: its hash part is among
the temporary roots of a live process, or it or its lock is locked.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from nixfetch.formats.storepath import HASH_LENGTH, STORE_DIR
from nixfetch.store.disk import disk_errors
from nixfetch.store.locks import LOCK_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nixfetch.store.local import LocalStore

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OURS = frozenset({".links"})
_LONGEST = 64 * 1024 * 1024  # bytes of a list of temporary roots: some 10^6 paths


def leftovers(store: LocalStore) -> list[str]:
    """Names in the store directory that nobody asked for, ascending.

    Args:
        store: may be open for reading only.

    Raises:
        DiskError: the directory cannot be read.
        DatabaseError: the store cannot be asked.
    """
    with disk_errors(store.layout.store):
        names = os.listdir(store.fd)  # noqa: PTH208 - a descriptor
    # In this order: what is in the making is rooted before it is made, and valid before its
    # root is given up.
    rooted = set(_rooted(store.layout.temp_roots))
    known = {path.base for path in store.all_valid()} | _OURS
    return sorted(
        name
        for name in names
        if name not in known
        and name[:HASH_LENGTH] not in rooted
        and not is_locked(store.fd, name)
        and not is_locked(store.fd, name + LOCK_SUFFIX)
        and _is_there(store.fd, name)
    )


def _rooted(directory: Path) -> Iterator[str]:
    """Hash parts of the temporary roots of live processes."""
    try:
        names = sorted(directory.iterdir())
    except OSError:  # no such directory, or not for us to see
        return
    for file in names:
        try:
            fd = os.open(file, _OPEN)
        except OSError:
            continue
        try:
            if not _has_lock(fd):
                size = min(os.fstat(fd).st_size, _LONGEST)
                for path in os.read(fd, size).decode("ascii", "replace").split("\0"):
                    yield path.removeprefix(f"{STORE_DIR}/")[:HASH_LENGTH]
        finally:
            os.close(fd)


def is_locked(store_fd: int, name: str) -> bool:
    """Whether somebody has a lock on the file or directory `name`."""
    try:
        fd = os.open(name, _OPEN, dir_fd=store_fd)
    except OSError:  # not there, a link, not for us to read
        return False
    try:
        return not _has_lock(fd)
    finally:
        os.close(fd)


def _has_lock(fd: int) -> bool:
    """Whether nobody else has the lock of a file; it is given up when `fd` is closed."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_there(store_fd: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=store_fd, follow_symlinks=False)
    except OSError:
        return False
    return True
