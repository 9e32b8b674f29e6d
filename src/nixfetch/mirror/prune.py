"""Removes from a mirror what the kept paths do not need.

    1. read every narinfo; the kept closure must be whole, else nothing is removed
    2. remove narinfos of the others, referrers before what they refer to
    3. look once more which files are named by the narinfos that are left; remove the other files

So at every moment each narinfo that is there has its closure and its file. A copy into the mirror
that runs at the same time may count on a file that goes in step 3: files without a narinfo are
let alone while they are younger than a day, and the rest is for the operator to keep apart.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nixfetch.errors import TrustError
from nixfetch.mirror import naming
from nixfetch.mirror.inventory import take_inventory
from nixfetch.plan.closure import Closure, CycleError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from nixfetch.formats.narinfo import NarInfo
    from nixfetch.formats.storepath import StorePath
    from nixfetch.mirror.destination import Destination
    from nixfetch.mirror.inventory import Inventory

YOUNG = 24 * 3600.0  # seconds; no run takes longer from a file to its narinfo


class KeptPathLackingError(TrustError):
    """The mirror lacks a path that the kept ones need. Facts: `path`, `needed_by`."""


@dataclass(slots=True)
class Pruned:
    """What was removed, or would be."""

    mirror: str
    dry_run: bool
    removed: list[StorePath] = field(default_factory=list)
    """In the order of removing."""
    bad: list[str] = field(default_factory=list)
    """Hash parts of narinfos that were none, and went."""
    files: list[str] = field(default_factory=list)
    """Names of files that no narinfo needs any more."""
    bytes_freed: int = 0
    kept: int = 0
    """Paths."""

    def to_json(self) -> dict[str, Any]:
        """As `mirror prune --json` has it."""
        return {
            "mirror": self.mirror,
            "dry_run": self.dry_run,
            "removed": list(map(str, self.removed)),
            "bad": self.bad,
            "files": self.files,
            "bytes_freed": self.bytes_freed,
            "kept": self.kept,
        }


def prune_mirror(
    mirror: Destination,
    *,
    keep: Collection[StorePath],
    dry_run: bool = False,
    now: Callable[[], float] = time.time,
) -> Pruned:
    """Remove all that `keep` and what they refer to do not need.

    Args:
        mirror: to prune; nobody should copy into it meanwhile.
        keep: paths that stay, with their closures.
        dry_run: look only, and remove nothing.
        now: seconds since 1970.

    Raises:
        KeptPathLackingError: the mirror lacks one of these; nothing was removed.
        DestinationError: it cannot be read, or nothing be removed there.
    """
    inventory = take_inventory(mirror, keep=_slim)
    kept = _closure(inventory, keep)
    dead = [path for path in _referrers_first(inventory) if path not in kept]
    pruned = Pruned(mirror.url, dry_run, dead, [bad.hash_part for bad in inventory.bad])
    pruned.kept = len(kept)
    before = _files(inventory.infos.values())
    if dry_run:
        needed = _files(inventory.infos[path] for path in kept)
    else:
        parts = [*pruned.bad, *(path.hash_part for path in dead)]
        mirror.delete([f"{part}.narinfo" for part in parts])
        mirror.delete([f"{part}.ls" for part in parts])
        # Somebody may have written meanwhile.
        needed = _files(take_inventory(mirror, keep=_slim).infos.values())
    for name, entry in sorted(mirror.entries(naming.FOLDER).items()):
        is_young = now() - entry.modified < YOUNG
        if name not in needed and (name in before or not is_young):
            pruned.files.append(name)
            pruned.bytes_freed += entry.size
    if not dry_run:
        mirror.delete(pruned.files)
    return pruned


def _files(infos: Iterable[NarInfo]) -> set[str | None]:
    return {naming.object_name(info.url) for info in infos}


def _slim(info: NarInfo) -> NarInfo:
    return replace(info, raw=b"", extra=(), signatures=(), deriver=None, ca=None)


def _closure(inventory: Inventory, keep: Iterable[StorePath]) -> set[StorePath]:
    """`keep`, and all that they refer to."""
    closure = Closure(keep)
    kept: set[StorePath] = set()
    while wanted := closure.wanted():
        for path in wanted:
            info = inventory.infos.get(path)
            if info is None:
                chain = [str(link) for link in closure.chain(path)[:-1]]
                raise KeptPathLackingError(
                    "mirror lacks a path that is to be kept",
                    hint="copy it there first, or repair the mirror; nothing was removed",
                    path=path,
                    needed_by=chain,
                )
            closure.learn(path, info.references)
            kept.add(path)
    return kept


def _referrers_first(inventory: Inventory) -> list[StorePath]:
    closure = Closure(inventory.infos)
    for path, info in inventory.infos.items():
        closure.learn(path, (other for other in info.references if other in inventory.infos))
    try:
        return closure.order()[::-1]
    except CycleError:  # no store has such paths: any order breaks them
        return sorted(inventory.infos)
