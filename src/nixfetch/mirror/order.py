"""When a narinfo may be published: when those of all its references are.

A path waits here from when its NAR is in the mirror. Whatever moment a run ends at, what a
mirror has a narinfo of, it has the whole closure of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nixfetch.formats.storepath import StorePath


class Publication:
    """Who waits for whom. Each path and each reference is looked at once."""

    def __init__(self) -> None:
        self._there: set[StorePath] = set()
        self._lacking: dict[StorePath, int] = {}
        self._waiters: dict[StorePath, list[StorePath]] = {}

    def finished(self, path: StorePath, references: Iterable[StorePath]) -> list[StorePath]:
        """Say that `path` could be published but for its references; gives it if it can be."""
        lacking = {other for other in references if other != path and other not in self._there}
        if not lacking:
            return [path]
        self._lacking[path] = len(lacking)
        for other in lacking:
            self._waiters.setdefault(other, []).append(path)
        return []

    def published(self, path: StorePath) -> list[StorePath]:
        """Say that the narinfo of `path` is there; gives what waited for that alone."""
        if path in self._there:
            return []
        self._there.add(path)
        ready = []
        for waiter in self._waiters.pop(path, ()):
            self._lacking[waiter] -= 1
            if not self._lacking[waiter]:
                del self._lacking[waiter]
                ready.append(waiter)
        return ready

    def has(self, path: StorePath) -> bool:
        """Whether the narinfo of `path` is there."""
        return path in self._there

    def waiting(self) -> list[StorePath]:
        """Paths that lack a reference."""
        return list(self._lacking)
