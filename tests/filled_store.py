"""A small store with all kinds of paths in it, filled from a simulated cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.fetch import fetch_closure
from nixfetch.formats.contentaddress import Method
from nixfetch.store import LocalStore
from simulated_cache import POLICY, Executable, Link, SimulatedCache, store_path

if TYPE_CHECKING:
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath


@dataclass(frozen=True, slots=True)
class Filled:
    """A store on disk, closed; its paths by role."""

    root: Path
    top: StorePath
    """Refers to the two below."""
    library: StorePath
    """Signed, refers to itself, has files and a link."""
    source: StorePath
    """Content-addressed by its NAR, not signed."""
    text: StorePath
    """A file that is content-addressed by its contents; nothing refers to it."""

    @property
    def all(self) -> list[StorePath]:
        return sorted([self.top, self.library, self.source, self.text])

    def on_disk(self, path: StorePath) -> Path:
        return self.root / "nix/store" / path.base

    def open(self, *, read_only: bool = True) -> LocalStore:
        return LocalStore(self.root, read_only=read_only)


def fill(root: Path, *, cache: SimulatedCache | None = None) -> Filled:
    """Make the store below `root`, by way of `cache`."""
    cache = cache or SimulatedCache()
    library = cache.add(
        "library",
        {b"lib": {b"a": b"code", b"b": Executable(b"more"), b"c": Link(b"a")}},
        references=[store_path("library")],
    )
    source = cache.add("source", {b"main.c": b"int x;"}, ca=Method.RECURSIVE)
    text = cache.add("text", b"words", ca=Method.FLAT)
    top = cache.add("top", {b"bin": {b"run": Executable(b"#!")}}, references=[library, source])
    with CacheGroup([BinaryCache(cache)]) as caches, LocalStore(root) as store:
        fetch_closure([top, text], caches=caches, policy=POLICY, store=store, jobs=1)
    return Filled(root, top, library, source, text)


def damage(file: Path, data: bytes) -> None:
    """Give a file of a store other contents, and its old mode and time."""
    status = file.stat()
    file.chmod(0o644)
    file.write_bytes(data)
    file.chmod(status.st_mode)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
