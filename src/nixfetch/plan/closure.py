"""The walk from a few store paths to all that they refer to.

A state machine: `wanted` says what to look up next, `learn` takes what was found. It does not
know where narinfos come from, and it never waits. Each path is wanted once.

    closure = Closure(asked)
    while paths := closure.wanted():
        for path in paths:
            closure.learn(path, references_of(path))
    closure.order()
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from nixfetch.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nixfetch.formats.storepath import StorePath


class CycleError(FormatError):
    """Store paths refer to each other in a circle: no order of registration exists."""


class Closure:
    """What is known of a closure so far.

    Memory: two dictionary slots and a tuple a path, about 300 bytes and 8 a reference.
    """

    def __init__(self, asked: Iterable[StorePath]) -> None:
        # Who mentioned a path first; None: the user asked for it.
        self._wanted_by: dict[StorePath, StorePath | None] = dict.fromkeys(asked)
        self._fresh = list(self._wanted_by)
        self._references: dict[StorePath, tuple[StorePath, ...]] = {}

    def __len__(self) -> int:
        """Paths that are known to belong to it."""
        return len(self._wanted_by)

    def wanted(self) -> list[StorePath]:
        """Paths to look up that no earlier call gave, in the order in which they were met."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def learn(self, path: StorePath, references: Iterable[StorePath]) -> None:
        """Say what `path` refers to; itself among them is fine.

        Args:
            path: one that `wanted` gave.
            references: none for a path whose references need no walk, such as one that is
                valid in the store already.
        """
        others = tuple(reference for reference in references if reference != path)
        self._references[path] = others
        for reference in others:
            if reference not in self._wanted_by:
                self._wanted_by[reference] = path
                self._fresh.append(reference)

    def chain(self, path: StorePath) -> list[StorePath]:
        """How `path` came in: from an asked path, link by link, to `path`."""
        links = [path]
        while (referrer := self._wanted_by.get(links[-1])) is not None:
            links.append(referrer)
        return links[::-1]

    def references(self, path: StorePath) -> tuple[StorePath, ...]:
        """What `path` refers to, itself left out; nothing while it is not learnt."""
        return self._references.get(path, ())

    def order(self) -> list[StorePath]:
        """All learnt paths, references before their referrers; ties in the order of meeting.

        Raises:
            CycleError: there is no such order. Carries `paths`, those in or above a circle.
        """
        waiting = {
            path: sum(reference in self._references for reference in references)
            for path, references in self._references.items()
        }
        referrers: dict[StorePath, list[StorePath]] = {}
        for path, references in self._references.items():
            for reference in references:
                referrers.setdefault(reference, []).append(path)
        ready = deque(path for path, count in waiting.items() if not count)
        ordered: list[StorePath] = []
        while ready:
            path = ready.popleft()
            ordered.append(path)
            for referrer in referrers.get(path, ()):
                waiting[referrer] -= 1
                if not waiting[referrer]:
                    ready.append(referrer)
        if len(ordered) < len(waiting):
            circle = sorted(str(path) for path, count in waiting.items() if count)
            raise CycleError("store paths refer to each other in a circle", paths=circle[:10])
        return ordered
