"""Whose it is to make a path valid: ours, or another process's that fetches into the same store.

Who makes a path valid holds its lock. A path that somebody else has is set aside and looked at
again from time to time; no thread waits for it. For one thread.
"""

from __future__ import annotations

import logging
import time
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nixfetch.cache.group import Found
    from nixfetch.formats.storepath import StorePath
    from nixfetch.store.local import LocalStore

_log = logging.getLogger(__name__)
POLL = 0.05  # seconds between looks at what other processes are fetching
PATIENCE = 3.0  # seconds of nothing but waiting for others, before the user hears why
MOST_LOCKS = 256  # of finished paths; each is an open file, and 1024 is a common limit to those


class Right(Enum):
    """What came of asking for the right to make a path valid."""

    OURS = auto()
    THEIRS = auto()
    """Somebody is at it: `Rights.look` will say what came of it."""
    NEEDLESS = auto()
    """It is valid."""


class Rights:
    """The paths that others have, and those that are ours."""

    def __init__(
        self, store: LocalStore, *, most: int = MOST_LOCKS, patience: float = PATIENCE
    ) -> None:
        """None yet.

        Args:
            store: which they are for.
            most: locks of paths that are finished, and wait for what they refer to.
            patience: seconds of nothing but waiting for others before that is said.
        """
        self._store = store
        self._most = most
        self._finished: dict[StorePath, None] = {}  # whose locks are kept, the oldest first
        self._theirs: dict[StorePath, Found] = {}
        self._looked = 0.0  # when we last looked at those
        self._patience = patience
        self._idle_since: float | None = None  # None: we are busy ourselves
        self._told = False

    def __bool__(self) -> bool:
        """Whether somebody has one that we want."""
        return bool(self._theirs)

    def take(self, found: Found) -> Right:
        """Ask for a path that is to be fetched."""
        path = found.trusted.info.path
        if not self._store.try_lock(path):
            self._theirs[path] = found
            return Right.THEIRS
        if self._store.notice([path]):  # somebody was faster, after we had looked
            self._store.unlock(path)
            return Right.NEEDLESS
        return Right.OURS

    def finished(self, path: StorePath) -> None:
        """One that is ours is finished, and not valid yet.

        Thousands may wait for one that is slow. The oldest are let go of then: another process
        that wants one of those fetches it again, and the first to make it valid wins.
        """
        self._finished[path] = None
        if len(self._finished) > self._most:
            oldest = next(iter(self._finished))
            del self._finished[oldest]
            self._store.unlock(oldest)

    def settled(self, paths: Iterable[StorePath]) -> None:
        """These are valid."""
        for path in paths:
            self._finished.pop(path, None)

    def give(self, path: StorePath) -> None:
        """Give one up that is ours: somebody else may have better luck."""
        self._store.unlock(path)

    def look(self, *, idle: bool = False) -> tuple[set[StorePath], list[Found]]:
        """See what became of those that others have, unless that was done just now.

        Args:
            idle: there is nothing else to do.

        Returns:
            Those that are valid, and those that were given up and are to be fetched after all.
        """
        now = time.monotonic()
        if not self._theirs or now < self._looked + POLL:
            return set(), []
        self._looked = now
        self._idle_since = (self._idle_since or now) if idle else None
        if self._idle_since is not None and now >= self._idle_since + self._patience:
            self._tell()
        valid = self._store.notice(self._theirs.keys())
        for path in valid:
            del self._theirs[path]
        free = [path for path in self._theirs if self._store.try_lock(path)]
        return valid, [self._theirs.pop(path) for path in free]

    def _tell(self) -> None:
        """Say once whom we wait for: it may be a process that was forgotten."""
        if self._told:
            return
        self._told = True
        path = next(iter(self._theirs))
        _log.warning(
            "another process fetches %s (%d in all): waiting for it, or for its lock %s",
            path,
            len(self._theirs),
            f"{self._store.physical(path)}.lock",
        )
