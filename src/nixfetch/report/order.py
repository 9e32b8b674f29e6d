"""The order in which Nix lists paths: references first, else by base name.

Unlike `plan.closure.Closure.order` it does not depend on the order in which paths were met,
so that many threads may meet them and equal input still gives equal output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nixfetch.plan.closure import CycleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nixfetch.formats.storepath import StorePath


def references_first(references: Mapping[StorePath, Iterable[StorePath]]) -> list[StorePath]:
    """All keys of `references`, each behind the ones that it refers to.

    Args:
        references: by path, what it refers to; itself and what is no key do not matter.

    Raises:
        CycleError: some refer to each other in a circle.

    Source: nix, src/libutil/include/nix/util/topo-sort.hh, `topoSort`, over a sorted set and
    reversed, as src/nix/path-info.cc prints it.
    """
    done: dict[StorePath, None] = {}
    climbed: set[StorePath] = set()  # on the way from a root to the path on top
    for root in _sorted(references):
        stack = [root]
        while stack:
            path = stack[-1]
            if path in done or path in climbed:
                stack.pop()
                climbed.discard(path)
                done[path] = None
                continue
            climbed.add(path)
            below = [link for link in references[path] if link != path and link in references]
            circle = next((link for link in below if link in climbed), None)
            if circle is not None:
                raise CycleError(
                    "store paths refer to each other in a circle", paths=[str(circle), str(path)]
                )
            stack += reversed(_sorted(link for link in below if link not in done))
    return list(done)


def _sorted(paths: Iterable[StorePath]) -> list[StorePath]:
    return sorted(paths, key=lambda path: path.base)
