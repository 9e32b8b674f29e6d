"""What is crashed: `nixfetch fetch` of a closure into a store, and what must hold afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import places
from command import Ran
from nixfetch.store import LocalStore
from simulated_cache import KEY, Executable, Link, SimulatedCache

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nixfetch.formats.storepath import StorePath
    from real_nix import RealNix
    from simulated_cache import Compression, Tree

FULL = os.environ.get("NIXFETCH_CRASH") == "full"
"""Whether all figures are to be shown (`make crash`); a cut is made otherwise."""
PATIENCE = 60.0  # seconds for one command: longer is a hang
_QUIET = {
    "reading the Nix store...",
    "checking path existence...",
    "checking hashes...",
    "checking link hashes...",
    "checking store hashes...",
}
"""What `nix-store --verify --check-contents` says when all is well."""


def rounds(full: int, cut: int) -> int:
    """How often to do it."""
    return full if FULL else cut


@dataclass(frozen=True, slots=True)
class Closure:
    """A closure in a cache on this disk."""

    folder: Path
    """Of the cache."""
    root: str
    paths: tuple[str, ...]
    """All of it, ascending."""

    def command(self, store: Path, *more: str, source: str | None = None) -> list[str | Path]:
        """The command that fetches it into `store`."""
        source = source or self.folder.as_uri()
        key = str(KEY.public())
        command = [sys.executable, "-m", "nixfetch.cli", "fetch", self.root]
        return [*command, "--from", source, "--trusted-key", key, "--store", store, *more]

    def fetch(self, store: Path, *more: str, source: str | None = None) -> Ran:
        """Fetch it into `store`."""
        return run(self.command(store, *more, source=source))

    def verb(self, store: Path, verb: str, *more: str) -> list[str | Path]:
        """Another command on `store`, with the same cache and key."""
        where = ["--from", self.folder.as_uri(), "--trusted-key", str(KEY.public())]
        return [sys.executable, "-m", "nixfetch.cli", verb, *more, *where, "--store", store]

    def is_valid(self, store: Path) -> None:
        """Hold `store` to having all of it registered."""
        with LocalStore(store, read_only=True) as opened:
            assert sorted(map(str, opened.all_valid())) == list(self.paths)

    def is_fetched(self, store: Path) -> None:
        """Hold `store` to having all of it, and nothing besides, leftovers of the dead least."""
        self.is_valid(store)
        assert places.names(store / "nix/store") == [Path(path).name for path in self.paths]
        assert places.names(store / "nix/var/nixfetch/inflight") == []
        assert places.names(store / "nix/var/nix/temproots") == []

    def recovers(self, store: Path, nix: RealNix) -> None:
        """Hold `store` to being sound as it is, and whole and clean after one more fetch."""
        is_sound(store, nix)
        ran = self.fetch(store)
        assert (ran.code, ran.errors) == (0, []), ran.err
        self.is_fetched(store)
        is_sound(store, nix)


def environ() -> dict[str, str]:
    """What a command gets to see: no settings of this machine or of the user."""
    environ = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "NIX_CONF_DIR": "/nowhere"}
    if "PYTHONPATH" in os.environ:
        environ["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return environ


def run(command: list[str | Path]) -> Ran:
    """Run a command of ours."""
    done = subprocess.run(
        command,
        env=environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


def is_sound(store: Path, nix: RealNix) -> None:
    """Hold the store to what real Nix says of it, without changing it.

    Real Nix makes what it misses and removes what it thinks stale, so it gets a copy.

    Args:
        store: its root.
        nix: the judge.
    """
    if not (store / "nix").exists():
        return
    with _copied(store, nix.place) as copy:
        done = nix.run("nix-store", "--store", copy, "--verify", "--check-contents", check=False)
    text = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, text
    assert set(text.splitlines()) <= _QUIET


@contextmanager
def _copied(store: Path, folder: Path) -> Iterator[Path]:
    copy = folder / "copy"
    # Files of paths are only read: on the same disk, other names for them do.
    linked = store.stat().st_dev == folder.stat().st_dev
    try:
        (copy / "nix").mkdir(parents=True)
        for part in ("store", "var"):
            if (store / "nix" / part).exists():
                how = "-al" if linked and part == "store" else "-a"
                subprocess.run(["cp", how, store / "nix" / part, copy / "nix"], check=True)
        yield copy
    finally:
        remove(copy)


def remove(store: Path) -> None:
    """Remove a store, if it is there."""
    subprocess.run(["rm", "-rf", store], check=True)


def small_closure(folder: Path) -> Closure:
    """Three paths with nine files, some equal, one large, a link, a program."""
    cache = SimulatedCache()
    tree: Tree = {
        b"file": b"hello",
        b"link": Link(b"file"),
        b"below": {b"run": Executable(b"#!/bin/sh\n"), b"large": _text(1_500_000)},
    }
    lowest = cache.add("lowest", tree, compression="zstd")
    middle = cache.add("middle", {b"file": b"hello", b"other": b"more"}, references=[lowest])
    tree = {b"file": b"hello", b"own": b"own", b"empty": {}}
    top = cache.add("top", tree, references=[lowest, middle], compression="xz")
    cache.dump(folder)
    return Closure(folder, str(top), tuple(sorted(map(str, cache.infos))))


def tiny_closure(folder: Path) -> Closure:
    """A dozen paths with a few files of a page each: they take about as much as a database."""
    cache = SimulatedCache()
    last: list[StorePath] = []
    for number in range(12):
        tree: Tree = {b"own": b"%d" % number, b"equal": b"equal", b"link": Link(b"own")}
        last.append(cache.add(f"path-{number}", tree, references=last[-2:], compression="zstd"))
    cache.dump(folder)
    return Closure(folder, str(last[-1]), tuple(sorted(map(str, cache.infos))))


def wide_closure(folder: Path, *, files: int, paths: int = 24, on_top: bool = False) -> Closure:
    """Many paths, the lowest of which has many small files; no file is empty.

    Args:
        folder: where to.
        files: of the path that has many.
        paths: of all.
        on_top: have that path refer to the others, which are valid while it is not.
    """
    cache = SimulatedCache()
    many: dict[bytes, Tree] = {
        b"%03d" % part: {b"%02d" % number: b"%d %d\n" % (part, number) for number in range(100)}
        for part in range(files // 100)
    }
    last = [] if on_top else [cache.add("many", many, compression="zstd")]
    for number in range(paths - 1):
        tree: Tree = {b"file": b"%d" % number, b"data": _text(3_000 * (number + 1))}
        compression: Compression = ("none", "xz", "zstd")[number % 3]
        last.append(
            cache.add(f"path-{number}", tree, references=last[-3:], compression=compression)
        )
    if on_top:
        last.append(cache.add("many", many, references=last[-3:], compression="zstd"))
    cache.dump(folder)
    return Closure(folder, str(last[-1]), tuple(sorted(map(str, cache.infos))))


def _text(size: int) -> bytes:
    return Random(size).randbytes(size // 16) * 16
