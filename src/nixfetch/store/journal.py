"""What a process has in the store directory and would not leave behind: found again after a kill.

    ROOT/nix/var/nixfetch/inflight/<pid>.<random>   names in the store directory, one a line; its
                                                   writer holds the file's lock while it lives

A name is written here before it is made. Whoever opens the store looks for lists whose lock
is free: their writers are dead, and what they name is removed. After a power cut a list may be
lost and its trees not; a collector finds those, since no row names them.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
import threading
from functools import partial
from typing import TYPE_CHECKING

from nixfetch.store.disk import disk_errors
from nixfetch.store.links import sole_entry
from nixfetch.store.locks import LOCK_SUFFIX, remove_stale_lock
from nixfetch.store.trees import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from nixfetch.store.links import Links

_log = logging.getLogger(__name__)
_OPEN = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
# Whatever a list says, nothing else than these is removed for it.
_STAGING = re.compile(r"[0-9a-df-np-sv-z]{32}-nixfetch\.[0-9a-f]{16}(?:\.links)?\Z")
_SHELF = ".links"
_LOCK = re.compile(rf"[0-9a-df-np-sv-z]{{32}}-[0-9A-Za-z+\-._?=]+{re.escape(LOCK_SUFFIX)}\Z")


def staging_name(hash_part: str) -> str:
    """A fresh name in the store directory for a tree that belongs to the path `hash_part`."""
    return f"{hash_part}-nixfetch.{secrets.token_hex(8)}"


def shelf_name(hash_part: str) -> str:
    """A fresh name for a directory of entries that wait to get into ``.links``; see `offers`."""
    return staging_name(hash_part) + _SHELF


def is_staging_name(name: str) -> bool:
    """Whether `staging_name` or `shelf_name` makes such names."""
    return _STAGING.match(name) is not None


class Journal:
    """The list of one open store. Safe to share among threads."""

    def __init__(self, directory: Path) -> None:
        """Begin a list in `directory`, which is there.

        Raises:
            DiskError: it cannot be made.
        """
        self._directory = directory
        self._lock = threading.Lock()
        with disk_errors(directory):
            self.file, self._fd = _own_file(directory)

    def add(self, names: Iterable[str]) -> None:
        """Name what is about to be made in the store directory.

        Raises:
            DiskError: the list cannot be written; make nothing.
        """
        data = "".join(f"{name}\n" for name in names).encode()
        with self._lock, disk_errors(self.file):
            while data:
                data = data[os.write(self._fd, data) :]

    def close(self, *, clean: bool = True) -> None:
        """End the list.

        Args:
            clean: nothing of what it names is left; if not, it is for whoever opens the
                store next.
        """
        with self._lock:
            try:
                if clean:
                    self.file.unlink(missing_ok=True)
            except OSError as error:
                _log.warning("cannot remove %s: %s", self.file, error.strerror)
            finally:
                os.close(self._fd)


def sweep(directory: Path, store_fd: int, links: Links) -> int:
    """Remove what dead processes left behind in the store directory `store_fd`, and in `links`.

    Returns:
        How many trees and locks were removed. What cannot be removed is logged, and stays named.

    Raises:
        DiskError: the lists cannot be read.
    """
    removed = 0
    with disk_errors(directory):
        lists = sorted(directory.iterdir())
    for file in lists:
        with disk_errors(file):
            removed += _sweep_list(file, store_fd, links)
    return removed


def _sweep_list(file: Path, store_fd: int, links: Links) -> int:
    try:
        fd = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return 0
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # By the descriptor: its writer may have ended, and removed it, since it was opened.
        with open(fd, encoding="ascii", errors="replace", closefd=False) as text:
            names = text.read().split("\n")
        # Shelves first: without them a file has no other link, and need not be read for it.
        names.sort(key=lambda name: not name.endswith(_SHELF))
        removed = [_remove(name, store_fd, links) for name in names]
        if None not in removed:
            file.unlink(missing_ok=True)
    except BlockingIOError:  # its writer lives
        return 0
    finally:
        os.close(fd)
    return sum(map(bool, removed))


def _remove(name: str, store_fd: int, links: Links) -> bool | None:
    """Remove `name` if it is one of ours; whether there was anything, None if it cannot be."""
    try:
        if _LOCK.match(name):
            return remove_stale_lock(store_fd, name)
        if not is_staging_name(name):
            return False
        os.stat(name, dir_fd=store_fd, follow_symlinks=False)
        farewell = None if name.endswith(_SHELF) else partial(_withdraw, links)
        remove_tree(store_fd, name.encode(), farewell=farewell)
    except FileNotFoundError:
        return False
    except OSError as error:
        _log.warning("cannot remove %s, left behind by a dead process: %s", name, error.strerror)
        return None
    return True


def _withdraw(links: Links, dir_fd: int, name: bytes) -> None:
    entry = sole_entry(dir_fd, name)
    if entry is not None:
        links.withdraw(entry)


def _own_file(directory: Path) -> tuple[Path, int]:
    while True:
        file = directory / f"{os.getpid()}.{secrets.token_hex(4)}"
        fd = os.open(file, _OPEN | os.O_EXCL, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:  # nobody took it for a dead one's before it was locked
            return file, fd
        os.close(fd)
