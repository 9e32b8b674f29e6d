"""Which finished paths may be registered: those whose references all are, or are with them.

A referrer is never valid before what it refers to. Paths finish in any order, so a finished
one waits here until its last reference is valid. Waits go from referrer to reference only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nixfetch.formats.storepath import StorePath


class Readiness:
    """Who waits for whom. Each path and each reference is looked at once."""

    def __init__(self) -> None:
        self._valid: set[StorePath] = set()
        self._missing: dict[StorePath, int] = {}  # references of a finished path not yet valid
        self._waiters: dict[StorePath, list[StorePath]] = {}
        self._ready: list[StorePath] = []

    def knows(self, path: StorePath) -> bool:
        """Whether `path` was said to be valid."""
        return path in self._valid

    def valid(self, path: StorePath) -> None:
        """Say that `path` is valid, or becomes so together with what `ready` gives."""
        if path in self._valid:
            return
        self._valid.add(path)
        for waiter in self._waiters.pop(path, ()):
            self._missing[waiter] -= 1
            if not self._missing[waiter]:
                del self._missing[waiter]
                self._ready.append(waiter)

    def finished(self, path: StorePath, references: Iterable[StorePath]) -> None:
        """Say that `path` could be registered now but for its references."""
        missing = {other for other in references if other != path and other not in self._valid}
        if not missing:
            self._ready.append(path)
            return
        self._missing[path] = len(missing)
        for other in missing:
            self._waiters.setdefault(other, []).append(path)

    def ready(self) -> list[StorePath]:
        """Take the paths that can be registered in one go, references first.

        They count as valid from here on: register them all, or stop.
        """
        batch: list[StorePath] = []
        while self._ready:
            path = self._ready.pop()
            batch.append(path)
            self.valid(path)
        return batch

    def waiting(self) -> list[StorePath]:
        """Finished paths that still lack a reference."""
        return list(self._missing)
