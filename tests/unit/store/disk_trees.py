"""Trees between values and the disk, for the tests of the store; and fresh interpreters."""

from __future__ import annotations

import codecs
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import places
from nixfetch.store.restore import Restorer
from simulated_cache import Executable, Link, Tree, tree_events

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parents[2]
MEMORY = Path("/dev/shm")
NOBODY = 65534  # uid and gid
ODD_NAMES = (b"new\nline", b"\xff\xfe", b"back\\slash", b" ", b"-rf", b"*", b'"', b"x" * 255, b")")
SAMPLE: Tree = {
    b"bin": {b"run": Executable(b"#!/bin/sh\n"), b"link": Link(b"run")},
    b"empty": b"",
    b"empty-program": Executable(b""),
    b"large": b"0123456789" * 100_000,
    b"none": {},
    b"outward": Link(b"../../../etc/passwd"),
    b"absolute": Link(b"/nix/store"),
    b"odd": dict.fromkeys(ODD_NAMES, b"data"),
}


@contextmanager
def directory(path: Path) -> Iterator[int]:
    """A descriptor of `path`."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def restore(parent: Path, tree: Tree, name: bytes = b"tree") -> Path:
    """Unpack `tree` below `parent`."""
    with directory(parent) as fd:
        restorer = Restorer(fd, name)
        try:
            for event in tree_events(tree):
                restorer.apply(event)
        finally:
            restorer.close()
    return parent / os.fsdecode(name)


def read_tree(path: Path) -> Tree:
    """What lies at `path`, read by plain means."""
    if path.is_symlink():
        return Link(os.fsencode(path.readlink()))
    if path.is_dir():
        return {os.fsencode(entry.name): read_tree(entry) for entry in path.iterdir()}
    data = path.read_bytes()
    return Executable(data) if path.stat().st_mode & 0o100 else data


def nested(levels: int, leaf: Tree = b"leaf") -> Tree:
    """A directory in a directory in …; `levels` of them."""
    tree = leaf
    for _ in range(levels):
        tree = {b"d": tree}
    return tree


def entries(path: Path) -> list[str]:
    """Names in a directory, ascending."""
    return places.names(path)


def trees(path: Path) -> list[str]:
    """The same without the locks of paths, and the shelves of a store that is open."""
    return [name for name in entries(path) if not name.endswith((".lock", ".links"))]


def descriptors() -> list[str]:
    """Numbers of the open files of this process, and one more."""
    return entries(Path("/proc/self/fd"))


def python(code: str, *arguments: object, umask: int = -1) -> str:
    """Run `code` in an interpreter of its own; `sys.argv[1:]` are `arguments`; gives its output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={"PYTHONPATH": str(TESTS), "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
        capture_output=True,
        text=True,
        umask=umask,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def memory_directory() -> Iterator[Path]:
    """An empty directory in memory, where there is such a place."""
    place = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextmanager
def place_of_nobody() -> Iterator[Path]:
    """An empty directory that belongs to an ordinary user: to nobody, where the tests are root."""
    with memory_directory() as place:
        if os.geteuid() == 0:
            os.chown(place, NOBODY, NOBODY)
        yield place


def become_nobody() -> None:
    """Give up being root, for good. After all imports: the interpreter may be root's alone."""
    codecs.lookup("ascii")
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
