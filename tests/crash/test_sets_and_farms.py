"""Killed, or told an error, at each system call: sets of roots and farms are whole or not there."""

from __future__ import annotations

import errno
import shutil
import sys
from itertools import count
from typing import TYPE_CHECKING

import pytest

from crash.subject import environ
from crash.supervisor import SUPPORTED, Fault, watch
from nixfetch import LocalStore, Roots
from node import Node
from simulated_cache import Link, store_path
from snapshotter.farm import Farms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from crash.supervisor import Watched

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(not SUPPORTED, reason="system calls of this processor are not known here"),
]

A, B, C = map(store_path, "abc")
OLD, NEW = {"a", "b"}, {"b", "c"}
ADD = """
import sys, nixfetch
from nixfetch import LocalStore, Roots, StorePath
with LocalStore(sys.argv[1]) as store:
    Roots(store).add_set("web", [StorePath(base) for base in sys.argv[2:]])
"""
REMOVE = """
import sys
from nixfetch import LocalStore, Roots
with LocalStore(sys.argv[1]) as store:
    Roots(store).remove("web")
"""
GET = """
import sys
from nixfetch import LocalStore, StorePath
from pathlib import Path
from snapshotter.farm import Farms
with LocalStore(sys.argv[1]) as store:
    Farms(Path(sys.argv[1], "farms"), store).get([StorePath(base) for base in sys.argv[2:]])
"""
SWEEP = """
import sys
from nixfetch import LocalStore
from pathlib import Path
from snapshotter.farm import Farms
with LocalStore(sys.argv[1]) as store:
    Farms(Path(sys.argv[1], "farms"), store).sweep([])
"""


@pytest.fixture
def node(tmp_path: Path) -> Node:
    node = Node(tmp_path)
    for name in "abc":
        node.cache.add(name, {b"d": {b"f": b"x", b"l": Link(b"f")}, b"g": b"y"})
    with LocalStore(node.root) as store:
        node.fetch([A, B, C], store=store, cancelled=lambda: False)
    return node


def struck(
    code: str, node: Node, *arguments: str, below: Path, number: int | None
) -> Iterator[Watched]:
    """Runs of `code`, each struck at another call on what lies below a directory, until none is."""
    for at in count(1):
        command: list[str | Path] = [sys.executable, "-c", code, node.root, *arguments]
        fault = Fault(at) if number is None else Fault(at, number)
        watched = watch(command, root=below, fault=fault, environ=environ())
        yield watched
        if watched.struck is None:
            assert watched.code == 0, watched.err
            return


def kept(node: Node) -> set[str] | None:
    return node.rooted().get("web")


@pytest.mark.parametrize("number", [None, errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("before", [False, True])
def test_a_set_that_is_made(
    node: Node, show: Callable[[str], None], number: int | None, before: bool
) -> None:
    points = 0
    place = node.root / "nix/var/nix/gcroots/nixfetch"
    old = OLD if before else None

    def start_over() -> None:
        with LocalStore(node.root) as store:
            shutil.rmtree(place, ignore_errors=True)
            if before:
                Roots(store).add_set("web", [A, B])
            else:
                place.mkdir()

    start_over()
    for watched in struck(ADD, node, B.base, C.base, below=place, number=number):
        points += 1
        found = kept(node)
        if watched.code == 0:
            assert found == NEW
        else:
            # What an error at the very end leaves is whole; who asked for it lets go of it.
            assert found in (old, NEW)
        with LocalStore(node.root) as store:
            Roots(store).sweep()
        assert [entry.name for entry in place.iterdir()] == ([] if found is None else ["web"])
        start_over()
    assert points > 5
    show(f"{points} points")


@pytest.mark.parametrize("number", [None, errno.EIO])
def test_a_set_that_is_removed(node: Node, show: Callable[[str], None], number: int | None) -> None:
    points = 0
    place = node.root / "nix/var/nix/gcroots/nixfetch"

    def start_over() -> None:
        with LocalStore(node.root) as store:
            Roots(store).add_set("web", [A, B])

    start_over()
    for _ in struck(REMOVE, node, below=place, number=number):
        points += 1
        assert kept(node) in (OLD, None)
        with LocalStore(node.root) as store:
            Roots(store).sweep()
        assert len(list(place.iterdir())) == (kept(node) is not None)
        start_over()
    assert points > 3
    show(f"{points} points")


@pytest.mark.parametrize("number", [None, errno.EIO, errno.ENOSPC])
def test_a_farm_that_is_made(node: Node, show: Callable[[str], None], number: int | None) -> None:
    points = 0
    place = node.root / "farms"
    for watched in struck(GET, node, A.base, B.base, below=place, number=number):
        points += 1
        with LocalStore(node.root) as store:
            farms = Farms(place, store)
            names = farms.names()
            if watched.code == 0:
                assert len(names) == 1
            elif number is not None:
                assert [entry.name for entry in place.iterdir()] == sorted(names)
            for name in names:
                inside = place / name / "nix/store"
                assert {entry.name for entry in inside.iterdir()} == {A.base, B.base}
                assert all((inside / path.base / "d/l").read_text() == "x" for path in (A, B))
                assert (inside / A.base).stat().st_mode == node.on_disk(A).stat().st_mode
            farms.sweep([])
            assert list(place.iterdir()) == []
        place.rmdir()
    assert points > 20
    show(f"{points} points")


@pytest.mark.parametrize("number", [None, errno.EIO])
def test_a_farm_that_is_removed(
    node: Node, show: Callable[[str], None], number: int | None
) -> None:
    points = 0
    place = node.root / "farms"

    def start_over() -> None:
        with LocalStore(node.root) as store:
            Farms(place, store).get([A, B])

    start_over()
    for _ in struck(SWEEP, node, below=place, number=number):
        points += 1
        with LocalStore(node.root) as store:
            farms = Farms(place, store)
            for name in farms.names():
                inside = place / name / "nix/store"
                assert all((inside / path.base / "d/l").read_text() == "x" for path in (A, B))
            farms.sweep(farms.names())
            assert {entry.name for entry in place.iterdir()} == farms.names()
        start_over()
    assert points > 10
    show(f"{points} points")
