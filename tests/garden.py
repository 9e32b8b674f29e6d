"""A store whose paths refer to each other as a test wants it; some have roots, some none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.fetch import fetch_closure
from nixfetch.store import LocalStore
from simulated_cache import POLICY, SimulatedCache, Tree, store_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath


class Garden:
    """A cache that has paths by name, and a store that has some of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = SimulatedCache()

    def plant(
        self,
        references: Mapping[str, Iterable[str]],
        *,
        derivers: Mapping[str, str] | None = None,
        files: int = 1,
    ) -> None:
        """Put paths into the cache.

        Args:
            references: by name, references first.
            derivers: the ``.drv`` by the name of its output. It names that output.
            files: each path has so many, half of them as others have them.
        """
        derivers = derivers or {}
        outputs = {drv: output for output, drv in derivers.items()}
        for name, others in references.items():
            tree: Tree = {
                b"file%d" % number: (name if number % 2 == 0 else "equal").encode() * (number + 1)
                for number in range(files)
            }
            if name in outputs:
                tree = f'Derive([("out","{store_path(outputs[name])}","","")],[])'.encode()
            deriver = derivers.get(name)
            self.cache.add(
                name,
                tree,
                references=map(store_path, others),
                deriver=store_path(deriver) if deriver else None,
            )

    def fetch(self, names: Iterable[str], store: LocalStore) -> None:
        """Have paths in `store`, with all that they refer to."""
        with CacheGroup([BinaryCache(self.cache)]) as caches:
            fetch_closure(map(store_path, names), caches=caches, policy=POLICY, store=store, jobs=1)

    def grow(self, *names: str) -> None:
        """Have paths in the store, all by default."""
        with LocalStore(self.root, durable=False) as store:
            self.fetch(names or [path.name for path in self.cache.infos], store)

    def valid(self) -> list[str]:
        """Names of the valid paths."""
        with LocalStore(self.root, read_only=True) as store:
            return sorted(path.name for path in store.all_valid())

    def on_disk(self) -> list[str]:
        """Names in the store directory, .links apart; of store paths without the hash part."""
        found = (entry.name for entry in (self.root / "nix/store").iterdir())
        return sorted(
            name[33:] if "-" in name[32:33] else name for name in found if name != ".links"
        )

    def path(self, name: str) -> StorePath:
        """The path of that name."""
        return store_path(name)

    def tree(self, name: str) -> Path:
        """Where it lies."""
        return self.root / "nix/store" / store_path(name).base
