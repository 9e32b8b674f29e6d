"""What the removal of files frees on the disk: not what they hold, but what nobody else has.

Equal files of a store are one inode, which .links names too. A file that one path and .links
have is `expected` to be free; it is when the entry of .links goes, at the end.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from nixfetch.store.disk import DiskError, disk_error
from nixfetch.store.walk import walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_LINKS = ".links"
_BLOCK = 512  # bytes, the unit of st_blocks
_IN_LINKS = 2  # names of a file that one path and .links have
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Meter:
    """Counts for one store."""

    def __init__(self, store_fd: int) -> None:
        """Begin at nothing, in the store directory `store_fd`."""
        self._store_fd = store_fd
        self._device = os.fstat(store_fd).st_dev
        self._start = 0
        self.freed = 0
        """Bytes that are free now."""
        self.expected = 0
        """Bytes, with those that will be when unused links are removed."""

    def start(self) -> None:
        """Let `spent` begin here."""
        self._start = self.expected

    @property
    def spent(self) -> int:
        """Bytes expected since `start`."""
        return self.expected - self._start

    def farewell(self, directory_fd: int, name: bytes) -> Callable[[], None]:
        """See a file or directory that is about to be removed; what counts it when it is gone.

        Raises:
            OSError: it is a directory of another file system, mounted there: not ours to empty.
        """
        status = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode) and status.st_dev != self._device:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return partial(self._count, status)

    def foresee(self, names: Iterable[str]) -> None:
        """Count trees as if they were removed; those that are not there count nothing.

        Raises:
            OSError: one cannot be read.
        """
        for name in names:
            with suppress(FileNotFoundError):
                for visit in walk(self._store_fd, name.encode()):
                    self._count(visit.status)

    def remove_links(self, on_failure: Callable[[DiskError], None]) -> int:
        """Remove entries of .links that nobody uses; how many.

        An entry that somebody links to at this moment loses its name, and nothing else.
        """
        removed = 0
        try:
            directory_fd = os.open(_LINKS, _DIRECTORY, dir_fd=self._store_fd)
        except FileNotFoundError:
            return 0
        try:
            with os.scandir(directory_fd) as entries:
                for entry in entries:
                    removed += self._remove_link(directory_fd, entry, on_failure)
        finally:
            os.close(directory_fd)
        return removed

    def _remove_link(
        self, directory_fd: int, entry: os.DirEntry[str], on_failure: Callable[[DiskError], None]
    ) -> bool:
        try:
            status = os.stat(entry.name, dir_fd=directory_fd, follow_symlinks=False)
            if status.st_nlink != 1 or stat.S_ISDIR(status.st_mode):
                return False
            os.unlink(entry.name, dir_fd=directory_fd)
        except FileNotFoundError:
            return False
        except OSError as error:
            on_failure(disk_error(error, f"{_LINKS}/{entry.name}"))
            return False
        self.freed += status.st_blocks * _BLOCK
        return True

    def _count(self, status: os.stat_result) -> None:
        size = status.st_blocks * _BLOCK
        if status.st_nlink == 1 or stat.S_ISDIR(status.st_mode):
            self.freed += size
            self.expected += size
        elif status.st_nlink == _IN_LINKS:
            self.expected += size
