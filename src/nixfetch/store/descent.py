"""A walk down and up a directory tree by descriptors, never by joined paths.

No symbolic link is followed, no rename above it can lead it elsewhere, no path is too long.
At most `_MAX_OPEN` descriptors are open, however deep the tree: the upper ones are closed and
come back by opening ``..``, which must be the very directory that was left.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

_MAX_OPEN = 24  # descriptors; a store path is rarely deeper
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class _Level:
    fd: int  # -1: closed for now
    identity: tuple[int, int]  # device and inode


class Descent:
    """Where the walk stands. Close it, or leave its ``with`` block."""

    def __init__(self, fd: int) -> None:
        """Start in the directory `fd`, which stays the caller's."""
        self._start = fd
        self._levels: deque[_Level] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def fd(self) -> int:
        """The directory where the walk stands; valid until the next move."""
        return self._levels[-1].fd if self._levels else self._start

    @property
    def depth(self) -> int:
        """Directories below the start."""
        return len(self._levels)

    def enter(self, name: bytes | str) -> None:
        """Go down into `name`.

        Raises:
            OSError: it is no directory (a symbolic link is none), or cannot be opened.
        """
        fd = os.open(name, _DIRECTORY, dir_fd=self.fd)
        status = os.fstat(fd)
        self._levels.append(_Level(fd, (status.st_dev, status.st_ino)))
        if len(self._levels) > _MAX_OPEN:
            upper = self._levels[-1 - _MAX_OPEN]
            if upper.fd >= 0:
                os.close(upper.fd)
                upper.fd = -1

    def leave(self) -> None:
        """Go up again.

        Raises:
            OSError: the directory above is not the one that was left: somebody moved things.
        """
        level = self._levels[-1]
        if len(self._levels) > 1 and self._levels[-2].fd < 0:
            upper = self._levels[-2]
            fd = os.open("..", _DIRECTORY, dir_fd=level.fd)
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) != upper.identity:
                os.close(fd)
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            upper.fd = fd
        self._levels.pop()
        os.close(level.fd)

    def close(self) -> None:
        """Let go of everything."""
        while self._levels:
            level = self._levels.pop()
            if level.fd >= 0:
                os.close(level.fd)
