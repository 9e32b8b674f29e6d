"""Store paths that are there when a test says so: what `snapshotter.core` asks for, in memory.

A path is a directory, a file whose name ends in ``.txt``, or a link whose name ends in ``.link``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import nixfetch
from snapshotter.errors import PreconditionError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from pathlib import Path

    from nixfetch import StorePath
    from snapshotter.labels import NixLayer


def store_path(name: str, digit: str = "a") -> StorePath:
    """A path of that name."""
    return nixfetch.StorePath.parse(f"{digit * 32}-{name}")


class FakeClosures:
    """Closures, and what was done with them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir(exist_ok=True)
        self.valid: set[StorePath] = set()
        self.rooted: dict[str, tuple[StorePath, ...]] = {}
        self.fetches = 0
        self.on_fetch: Callable[[Callable[[], bool]], None] = lambda _: None
        """Called for each fetch; raises what goes wrong."""

    def ensure(
        self, layer: NixLayer, *, root: str, cancelled: Callable[[], bool]
    ) -> tuple[StorePath, ...]:
        paths = {*layer.paths, *([layer.closure] if layer.closure else [])}
        if paths - self.valid:
            self.fetches += 1
            self.on_fetch(cancelled)
            for path in paths - self.valid:
                self.add(path)
        closure = tuple(sorted(paths))
        self.rooted[root] = closure
        return closure

    def add(self, path: StorePath) -> StorePath:
        """Have `path`."""
        place = self.place / path.base
        if path.base.endswith(".txt"):
            place.write_text("text")
        elif path.base.endswith(".link"):
            place.symlink_to("/etc")
        else:
            place.mkdir(exist_ok=True)
        self.valid.add(path)
        return path

    def located(
        self, paths: Iterable[StorePath]
    ) -> tuple[list[tuple[StorePath, str]], tuple[StorePath, ...]]:
        found, links = [], []
        for path in paths:
            if path not in self.valid:
                raise PreconditionError("store path is not valid", path=path)
            if path.base.endswith(".link"):
                links.append(path)
            else:
                found.append((path, str(self.place / path.base)))
        return found, tuple(sorted(links))

    def root(self, name: str, paths: Sequence[StorePath]) -> None:
        if missing := set(paths) - self.valid:
            raise nixfetch.StoreError("path is not valid", path=min(missing))
        self.rooted[name] = tuple(paths)

    def unroot(self, name: str) -> None:
        self.rooted.pop(name, None)

    def roots(self) -> set[str]:
        return set(self.rooted)


class FakeFarms:
    """Farms that are empty directories."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.made: dict[str, tuple[StorePath, ...]] = {}
        place.mkdir(exist_ok=True)

    def get(self, closure: tuple[StorePath, ...]) -> Path:
        name = f"farm-{len(closure)}-{closure[0].base}"
        self.made[name] = closure
        (self.place / name).mkdir(exist_ok=True)
        return self.place / name

    def sweep(self, used: Collection[str]) -> None:
        for entry in self.place.iterdir():
            if entry.name not in used:
                entry.rmdir()

    def names(self) -> set[str]:
        """Of those that are there."""
        return {entry.name for entry in self.place.iterdir()}
