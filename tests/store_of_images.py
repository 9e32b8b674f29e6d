"""A store with paths that images are made of, of all kinds.

garden = planted(folder)
with garden.open() as trees: ...
"""

from __future__ import annotations

import struct
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.fetch import fetch_closure
from nixfetch.store import LocalStore
from simulated_cache import POLICY, Executable, Link, SimulatedCache, store_path
from snapshotter.image.trees import Trees

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath
    from simulated_cache import Tree


def elf(machine: int = 62) -> Executable:
    """A program of a machine, as far as its header."""
    head = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9) + struct.pack("<HH", 2, machine)
    return Executable(head + bytes(100))


@dataclass(frozen=True, slots=True)
class Grown:
    """A store on disk, closed."""

    root: Path

    @contextmanager
    def open(self) -> Iterator[Trees]:
        with LocalStore(self.root, read_only=True) as store:
            yield Trees(store)


def grown(root: Path, paths: dict[str, tuple[Tree, Sequence[str]]]) -> Grown:
    """Make a store of paths: by name, a tree and the names of what it refers to."""
    cache = SimulatedCache()
    for name, (tree, references) in paths.items():
        cache.add(name, tree, references=list(map(store_path, references)))
    with CacheGroup([BinaryCache(cache)]) as caches, LocalStore(root) as store:
        wanted = list(map(store_path, paths))
        fetch_closure(wanted, caches=caches, policy=POLICY, store=store, jobs=1)
    return Grown(root)


def to(path: StorePath, rest: str) -> Link:
    """A link into a store path."""
    return Link(f"{path}/{rest}".encode())


LIBC, SERVER, SCRIPT, TOOLS = map(store_path, ("libc", "server-1.0", "script.sh", "tools"))
WRAPPER, WORDS, ALIAS, EMPTY, INFO = map(
    store_path, ("wrapper", "words.txt", "alias", "empty", "closure-info")
)


def planted(root: Path) -> Grown:
    """The store that most tests use."""
    closure = "".join(f"{path}\n" for path in sorted([LIBC, SERVER]))
    return grown(
        root,
        {
            "libc": ({b"lib": {b"libc.so": elf()}, b"etc": {b"libc.conf": b"l"}}, []),
            "server-1.0": (
                {
                    b"bin": {b"server": elf(), b".server-wrapped": elf()},
                    b"etc": {b"server.conf": b"s"},
                    b"nix-support": {b"propagated": b""},
                    b"libc": to(LIBC, "lib/libc.so"),
                },
                ["libc"],
            ),
            "script.sh": (Executable(b"#!/bin/sh\n"), []),
            "tools": (
                {
                    b"bin": {b"a": Executable(b"#!"), b"b": Executable(b"#!"), b"doc": b"text"},
                    b"etc": {b"server.conf": b"other"},
                },
                [],
            ),
            "wrapper": ({b"bin": {b"run": to(SERVER, "bin/server")}}, ["server-1.0"]),
            "words.txt": (b"words", []),
            "alias": (Link(f"{SERVER}".encode()), ["server-1.0"]),
            "empty": ({}, []),
            "closure-info": ({b"store-paths": closure.encode()}, ["server-1.0", "libc"]),
        },
    )
