"""The locks of paths that one process holds in one store: which, and until when.

Knows nothing of trees. Its journal has the name of each lock before there is a file of it, so
that whoever opens the store after a crash finds what is left.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from nixfetch.store import locks
from nixfetch.store.disk import disk_errors
from nixfetch.store.temproots import StoreClosedError

if TYPE_CHECKING:
    from nixfetch.formats.storepath import StorePath
    from nixfetch.store.journal import Journal
    from nixfetch.store.layout import Layout
    from nixfetch.store.locks import PathLock

_log = logging.getLogger(__name__)


class HeldLocks:
    """Rights to make paths valid, until each is given up. Safe to share among threads."""

    def __init__(self, store_fd: int, layout: Layout, journal: Journal) -> None:
        """Begin with none.

        Args:
            store_fd: the store directory; stays the caller's.
            layout: its places.
            journal: is told of the names of locks before they are made.
        """
        self._fd = store_fd
        self._layout = layout
        self._journal = journal
        self._lock = threading.Lock()
        self._held: dict[StorePath, PathLock] = {}
        self._named: set[StorePath] = set()  # whose locks the journal has
        self._closed = False
        self.stuck = False
        """Whether a file could not be removed."""

    def __contains__(self, path: object) -> bool:
        """Whether the lock of a path is held."""
        return path in self._held

    def check_open(self) -> None:
        """Go on only before `close`.

        Raises:
            StoreClosedError: after it.
        """
        if self._closed:
            raise StoreClosedError("the store was closed meanwhile", file=str(self._layout.root))

    def acquire(self, path: StorePath) -> bool:
        """Take the right to make `path` valid; False at once when another process has it.

        Raises:
            DiskError: the lock cannot be made.
            StoreClosedError: after `close`.
        """
        with self._lock:
            self.check_open()  # a thread that was cut off would leave a lock behind
            if path in self._held:
                return True
            if path not in self._named:
                self._named.add(path)
                self._journal.add([locks.lock_name(path)])
            lock = None
            try:
                with disk_errors(self._layout.store / locks.lock_name(path)):
                    lock = locks.try_lock(self._fd, path)
                if lock is not None:
                    self._held[path] = lock
            except BaseException:
                if lock is not None:
                    lock.release()
                raise
            return lock is not None

    def release(self, path: StorePath) -> None:
        """Give the right up; without it nothing happens."""
        with self._lock:
            lock = self._held.pop(path, None)
        if lock is not None:
            try:
                lock.release()
            except OSError as error:
                self.stuck = True
                _log.warning("cannot remove the lock of %s: %s", path, error.strerror)

    def close(self) -> None:
        """Give out no more; those that are held stay until `release_all`."""
        with self._lock:
            self._closed = True

    def release_all(self) -> None:
        """Give up what is held."""
        for path in list(self._held):
            self.release(path)
