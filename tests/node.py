"""A node of a cluster without its daemon: a store, caches for it, and who brings paths in.

node = Node(tmp_path)
app = node.cache.add("app", references=[node.cache.add("lib")])
with node.substitute() as substitute:
    substitute.ensure(NixLayer((app,)), root="1", cancelled=lambda: False)
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import nixfetch
from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.plan.retry import RetrySchedule
from simulated_cache import POLICY, SimulatedCache
from snapshotter.core import Snapshotter
from snapshotter.farm import Farms
from snapshotter.layers import Layers
from snapshotter.metastore import Metastore
from snapshotter.overlay import Overlay
from snapshotter.substitute import Substitute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from nixfetch import LocalStore, StorePath, TrustPolicy
    from snapshotter.core import Mode

AT_ONCE = RetrySchedule(tries=1)  # a cache that is down is so at once


class Node:
    """One store below `place`, empty at first, and one cache."""

    def __init__(
        self,
        place: Path,
        *caches: SimulatedCache,
        open_caches: Callable[[], CacheGroup] | None = None,
        policy: TrustPolicy = POLICY,
    ) -> None:
        self.place, self.root = place, place / "store"
        self.caches = list(caches) or [SimulatedCache()]
        self.open_caches = open_caches or self._simulated
        self.policy = policy
        self.fetches: list[list[StorePath]] = []
        """What each fetch was asked for."""
        self._lock = threading.Lock()

    @property
    def cache(self) -> SimulatedCache:
        return self.caches[0]

    def fetch(
        self, paths: Sequence[StorePath], /, *, store: LocalStore, cancelled: Callable[[], bool]
    ) -> object:
        with self._lock:
            self.fetches.append(list(paths))
        with self.open_caches() as caches:
            return nixfetch.fetch_closure(
                paths, caches=caches, policy=self.policy, store=store, jobs=1, cancelled=cancelled
            )

    def _simulated(self) -> CacheGroup:
        return CacheGroup([BinaryCache(cache, retry=AT_ONCE) for cache in self.caches])

    @contextmanager
    def substitute(self) -> Iterator[Substitute]:
        """Over a store that is open meanwhile; nothing of it waits for the disk."""
        with nixfetch.LocalStore(self.root, durable=False) as store:
            yield Substitute(
                store,
                self.fetch,
                open_store=lambda: nixfetch.LocalStore(self.root, durable=False),
            )

    @contextmanager
    def snapshotter(self, mode: Mode = "target") -> Iterator[Snapshotter]:
        """All of a daemon but its server, over the snapshots of earlier ones."""
        (self.place / "snapshots").mkdir(exist_ok=True)
        with nixfetch.LocalStore(self.root, durable=False) as store:
            rows = Metastore(self.place / "snapshots/metadata.db", durable=False)
            with closing(
                Snapshotter(
                    store=rows,
                    layers=Layers(self.place / "snapshots"),
                    overlay=Overlay(),
                    closures=Substitute(
                        store,
                        self.fetch,
                        open_store=lambda: nixfetch.LocalStore(self.root, durable=False),
                    ),
                    farms=Farms(self.root / "nix/var/nixfetch/farms", store),
                    mode=lambda: mode,
                )
            ) as snapshotter:
                snapshotter.recover()
                yield snapshotter

    def snapshots(self) -> list[str]:
        """Directories of snapshots, those that wait to be deleted among them."""
        place = self.place / "snapshots"
        found = [*(place / "snapshots").iterdir(), *(place / "removed").iterdir()]
        return sorted(str(entry.relative_to(place)) for entry in found)

    def inject(self, key: str, *paths: str) -> None:
        """Write store paths of a snapshot into the database, whatever they are."""
        with closing(sqlite3.connect(self.place / "snapshots/metadata.db")) as rows, rows:
            rows.execute("delete from nix_paths")
            rows.executemany(
                "insert into nix_paths (snapshot_id, path, ord)"
                " select id, ?, ? from snapshots where name = ?",
                [(path, number, key) for number, path in enumerate(paths)],
            )

    # What is there.

    def valid(self) -> list[str]:
        """Names of the valid paths."""
        with nixfetch.LocalStore(self.root, read_only=True) as store:
            return sorted(path.name for path in store.all_valid())

    def rooted(self) -> dict[str, set[str]]:
        """Names of the paths that each root is a link to."""
        with nixfetch.LocalStore(self.root, read_only=True) as store:
            found: dict[str, set[str]] = {name: set() for name in nixfetch.Roots(store).sets()}
            for root in nixfetch.Roots(store).list():
                if root.path is not None:
                    found.setdefault(root.name, set()).add(root.path.name)
        return found

    def collect(self) -> set[str]:
        """Let a collector run; gives the names of what it deleted."""
        with nixfetch.LocalStore(self.root, durable=False) as store:
            return {path.name for path in nixfetch.collect(store).paths}

    def leftovers(self) -> list[str]:
        """Names in the store directory that are no valid path's."""
        with nixfetch.LocalStore(self.root, read_only=True) as store:
            valid = {path.base for path in store.all_valid()}
            return sorted(
                entry.name
                for entry in store.layout.store.iterdir()
                if entry.name not in valid and entry.name != ".links"
            )

    def on_disk(self, path: StorePath) -> Path:
        return self.root / "nix/store" / path.base

    def add_closure_info(self, *listed: StorePath, text: bytes | None = None) -> StorePath:
        """A `closureInfo` that lists and refers to paths; `text` in place of the list."""
        lines = b"".join(f"{path}\n".encode() for path in listed) if text is None else text
        return self.cache.add(
            "closure-info",
            {b"registration": b"", b"store-paths": lines},
            references=listed,
        )


def never() -> bool:
    """Nobody gives up."""
    return False


def names(paths: Iterable[StorePath]) -> list[str]:
    return sorted(path.name for path in paths)


def unpack(snapshotter: Snapshotter, key: str, *paths: StorePath) -> None:
    """Make the places for store paths that the blob of a layer has."""
    [mount] = snapshotter.mounts(key)
    store = Path(mount.source) / "nix/store"
    store.mkdir(parents=True)
    for path in paths:
        (store / path.base).mkdir()
