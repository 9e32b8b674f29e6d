"""What a garbage collector may delete: all that no root reaches.

    live    the roots; what a live path refers to; the deriver of a live path, where it is valid
    dead    the rest

A root may come while others are being deleted: `keep` it, and what it reaches is not dead any
more. Knows no files and no processes: who the roots are is an argument.

Source: nix, src/libstore/gc.cc, `LocalStore::collectGarbage`, with ``keep-derivations = true``
and ``keep-outputs = false``, its defaults.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nixfetch.formats.storepath import StorePath


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A valid path, as far as its life depends on it."""

    path: StorePath
    references: tuple[StorePath, ...] = ()
    """All of them valid; may hold `path` itself."""
    deriver: StorePath | None = None
    """Whether it is valid or not."""
    nar_size: int = 0
    """Bytes."""
    registered: int = 0
    """Seconds since 1970."""


class Liveness:
    """Which of the valid paths of one moment are live."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        """Begin with no root: all are dead."""
        self._nodes = {node.path: node for node in nodes}
        self._by_hash_part: dict[str, tuple[StorePath, ...]] = {}
        for path in self._nodes:
            known = self._by_hash_part.get(path.hash_part, ())
            self._by_hash_part[path.hash_part] = (*known, path)
        self._live: set[StorePath] = set()

    def __contains__(self, path: StorePath) -> bool:
        """Whether `path` was valid at that moment."""
        return path in self._nodes

    def nar_size(self, path: StorePath) -> int:
        """Bytes of the NAR of `path`, which was valid."""
        return self._nodes[path].nar_size

    def is_live(self, path: StorePath) -> bool:
        """Whether a root reaches `path`."""
        return path in self._live

    def keep(self, roots: Iterable[StorePath]) -> None:
        """Let `roots` live, and all that they reach. Those that were not valid keep nothing."""
        todo = list(roots)
        while todo:
            node = self._nodes.get(todo.pop())
            if node is None or node.path in self._live:
                continue
            self._live.add(node.path)
            todo.extend(node.references)
            if node.deriver is not None:
                todo.append(node.deriver)

    def keep_hash_parts(self, hash_parts: Iterable[str]) -> None:
        """Let the paths with these hash parts live, as temporary roots do."""
        for hash_part in hash_parts:
            self.keep(self._by_hash_part.get(hash_part, ()))

    def dead(self) -> Iterator[tuple[StorePath, ...]]:
        """The dead paths, referrers first; of those that may go, the oldest first.

        Each comes alone, but for paths that refer to each other in a circle: these come last,
        together with all that they reach. What `keep` saves meanwhile does not come.
        """
        dead = self._nodes.keys() - self._live
        # By path: dead paths that refer to it and have not come yet.
        referrers = Counter(
            other
            for path in dead
            for other in self._nodes[path].references
            if other != path and other in dead
        )
        ready = [(self._nodes[path].registered, path) for path in dead if path not in referrers]
        heapify(ready)
        while ready:
            _, path = heappop(ready)
            if path in self._live:
                continue
            dead.discard(path)
            yield (path,)
            for other in self._nodes[path].references:
                if other != path and other in referrers:
                    referrers[other] -= 1
                    if not referrers[other]:
                        del referrers[other]
                        heappush(ready, (self._nodes[other].registered, other))
        circle = tuple(sorted(dead - self._live))
        if circle:
            yield circle
