"""Equal files are one inode, by Nix's own names; failures of linking only cost space."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import places
from nixfetch import kernel
from nixfetch.formats import base32
from nixfetch.store import ContentMismatchError, LocalStore
from nixfetch.store.links import Links, Shape, open_links, symlink_name
from nixfetch.store.offers import Offers
from simulated_cache import Executable, Link, SimulatedCache, store_path, tree_nar
from unit.store.disk_trees import directory
from unit.store.test_local import add

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulated_cache import Tree

MIB = 1024 * 1024


@pytest.fixture
def store(memory_path: Path) -> Iterator[LocalStore]:
    with LocalStore(memory_path) as store:
        yield store


def nix_name(tree: Tree) -> str:
    """The name that Nix gives a file or link, from the definition."""
    return base32.encode(hashlib.sha256(tree_nar(tree)).digest())


def links_of(store: LocalStore) -> dict[str, os.stat_result]:
    directory = store.layout.store / ".links"
    return {entry.name: entry.lstat() for entry in directory.iterdir()}


TREE: Tree = {
    b"empty": b"",
    b"link": Link(b"text"),
    b"program": Executable(b"the same bytes"),
    b"text": b"the same bytes",
    b"large": bytes(2 * MIB) + b"end",
}


def test_names_are_those_of_nix(store: LocalStore) -> None:
    cache = SimulatedCache()
    add(store, cache, cache.add("a", TREE))
    store.settle()
    assert isinstance(TREE, dict)
    assert set(links_of(store)) == {nix_name(child) for child in TREE.values()}
    assert symlink_name(b"text") == nix_name(Link(b"text"))


def test_equal_files_of_two_paths_are_one_inode(store: LocalStore) -> None:
    cache = SimulatedCache()
    one, two = cache.add("one", TREE), cache.add("two", {**TREE, b"other": b"x"})  # type: ignore[dict-item] # it is a directory
    saved = []
    for path in (one, two):
        trusted = cache.trusted(path)
        with store.adding(trusted) as sink:
            sink.write(cache.objects[cache.nar_name(path)])
        saved.append(sink.saved)
    store.settle()
    for name in ("empty", "link", "program", "text", "large"):
        first, second = (store.physical(path) / name for path in (one, two))
        assert first.lstat().st_ino == second.lstat().st_ino
    assert saved == [0, 2 * MIB + 3 + 2 * len(b"the same bytes")]
    assert (store.physical(one) / "program").stat().st_ino != (
        store.physical(one) / "text"
    ).stat().st_ino


def test_equal_files_of_one_path_are_one_inode(store: LocalStore) -> None:
    cache = SimulatedCache()
    path = cache.add("a", {b"x": b"same", b"y": b"same", b"z": {b"w": b"same"}})
    add(store, cache, path)
    store.settle()
    assert (store.physical(path) / "x").stat().st_nlink == 4


def test_a_path_that_is_a_file_is_linked_too(store: LocalStore) -> None:
    cache = SimulatedCache()
    one, two = cache.add("one", b"text"), cache.add("two", b"text")
    add(store, cache, one, two)
    store.settle()
    assert store.physical(one).stat().st_ino == store.physical(two).stat().st_ino


def test_without_dedup_nothing_is_linked(memory_path: Path) -> None:
    cache = SimulatedCache()
    path = cache.add("a", {b"x": b"same", b"y": b"same"})
    with LocalStore(memory_path, dedup=False) as store:
        add(store, cache, path)
        store.settle()
        assert (store.physical(path) / "x").stat().st_nlink == 1
        assert not links_of(store)


@pytest.mark.parametrize("spoil", ["size", "mode", "kind"])
def test_an_entry_that_is_not_what_it_should_be_is_replaced(store: LocalStore, spoil: str) -> None:
    entry = store.layout.store / ".links" / nix_name(b"good")
    entry.write_bytes(b"bad!!" if spoil == "size" else b"evil")
    entry.chmod(0o644 if spoil == "mode" else 0o444)
    if spoil == "kind":
        entry.unlink()
        entry.symlink_to("elsewhere")
    cache = SimulatedCache()
    path = cache.add("a", {b"x": b"good"})
    add(store, cache, path)
    store.settle()
    assert (store.physical(path) / "x").read_bytes() == b"good"
    assert entry.stat().st_ino == (store.physical(path) / "x").stat().st_ino


def test_a_link_to_elsewhere_is_replaced(store: LocalStore) -> None:
    entry = store.layout.store / ".links" / symlink_name(b"here")
    entry.symlink_to("there")
    cache = SimulatedCache()
    path = cache.add("a", {b"x": Link(b"here")})
    add(store, cache, path)
    store.settle()
    assert (store.physical(path) / "x").readlink() == Path("here")
    assert entry.readlink() == Path("here")


@pytest.mark.skipif(os.geteuid() != 0, reason="root may read everything")
def test_files_of_another_owner_are_left_alone(store: LocalStore) -> None:
    entry = store.layout.store / ".links" / nix_name(b"theirs")
    entry.write_bytes(b"theirs")
    entry.chmod(0o444)
    os.chown(entry, 65534, 65534)
    cache = SimulatedCache()
    path = cache.add("a", {b"x": b"theirs"})
    add(store, cache, path)
    store.settle()
    assert (store.physical(path) / "x").stat().st_uid == 0
    assert entry.stat().st_uid == 65534


def test_a_file_with_all_the_links_it_can_have(memory_path: Path) -> None:
    # tmpfs has no limit within reach: the store's own call is made to fail as ext4's would.
    with LocalStore(memory_path) as store:

        class Full(Offers):
            def _take(self, name: str, dir_fd: int, target: bytes) -> bool:
                return False

        staging, cache = store._writable, SimulatedCache()
        path = cache.add("a", {b"x": b"same", b"y": b"same"})
        staging._offers[False] = Full(
            store.fd, staging._links, path.hash_part, announce=staging.journal.add
        )
        add(store, cache, path)
        store.settle()
        assert (store.physical(path) / "y").read_bytes() == b"same"
        assert (store.physical(path) / "y").stat().st_nlink == 1


def test_no_links_across_file_systems(tmp_path: Path, memory_path: Path) -> None:
    with directory(memory_path) as fd, directory(tmp_path) as elsewhere:
        if os.fstat(fd).st_dev == os.fstat(elsewhere).st_dev:
            pytest.skip("only an ordinary user of two file systems can see this")
        (tmp_path / "x").write_bytes(b"")
        offers = Offers(fd, Links(elsewhere), store_path("a").hash_part, announce=lambda _: None)
        assert offers.give("name", dir_fd=elsewhere, source=b"x")
        assert not offers.take_file(
            "name", Shape(0, executable=False), dir_fd=elsewhere, target=b"y"
        )
        (memory_path / "z").write_bytes(b"")
        offers.give("z", dir_fd=fd, source=b"z")
        offers.turn_over()
        offers.publish()
        assert places.names(tmp_path) == ["x"]
        assert offers.close()
        assert places.names(memory_path) == ["z"]


def test_a_failure_that_is_ours_is_not_hidden(memory_path: Path) -> None:
    with directory(memory_path) as fd:
        links = Links(open_links(fd))
        os.close(links.fd)
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            links.take_file("name", Shape(0, executable=False), dir_fd=fd, target=b"x")


def test_nothing_is_published_before_it_is_on_disk(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = SimulatedCache()
    path, other = cache.add("a", {b"x": b"same"}), cache.add("b", {b"x": b"same"})
    add(store, cache, path, other)
    assert links_of(store) == {}
    published_at_sync = []
    monkeypatch.setattr(kernel, "syncfs", lambda _: published_at_sync.append(links_of(store)))
    store.settle()
    assert published_at_sync == [{}]
    assert set(links_of(store)) == {nix_name(b"same")}
    assert (store.physical(path) / "x").stat().st_nlink == 3


def test_what_comes_while_data_goes_to_disk_waits_for_the_next_time(store: LocalStore) -> None:
    cache = SimulatedCache()
    one, two = cache.add("one", {b"x": b"one"}), cache.add("two", {b"x": b"two", b"y": b"one"})
    add(store, cache, one)
    offers = store._writable._offers[False]
    offers.turn_over()
    with store.adding(cache.trusted(two)) as sink:
        sink.write(cache.objects[cache.nar_name(two)])
        offers.publish()
    assert set(links_of(store)) == {nix_name(b"one")}
    assert set(store.settle()) == {one, two}
    assert set(links_of(store)) == {nix_name(b"one"), nix_name(b"two")}
    assert (store.physical(two) / "y").samefile(store.physical(one) / "x")


def test_what_a_bad_archive_brought_is_taken_back(store: LocalStore) -> None:
    cache = SimulatedCache()
    kept = cache.add("kept", {b"shared": b"shared", b"link": Link(b"x")})
    add(store, cache, kept)
    store.settle()
    before = set(links_of(store))
    tree: Tree = {b"a": b"new", b"b": Link(b"new"), b"c": b"", b"shared": b"shared"}
    bad = cache.trusted(cache.add("bad", tree))
    nar = tree_nar(tree)
    with pytest.raises(ContentMismatchError), store.adding(bad) as sink:
        sink.write(nar[:-8])  # and no more
    assert set(links_of(store)) == before


def test_who_comes_second_gives_way(memory_path: Path) -> None:
    # Both looked before either had given: the second finds the entry when it gives its own.
    with LocalStore(memory_path) as store:

        class Blind(Offers):
            def take_file(self, name: str, shape: Shape, *, dir_fd: int, target: bytes) -> bool:
                fresh = target.startswith(b".")
                return fresh and super().take_file(name, shape, dir_fd=dir_fd, target=target)

            def take_symlink(self, name: str, goal: bytes, *, dir_fd: int, target: bytes) -> bool:
                fresh = target.startswith(b".")
                return fresh and super().take_symlink(name, goal, dir_fd=dir_fd, target=target)

        staging, cache = store._writable, SimulatedCache()
        tree: Tree = {b"x": b"same", b"y": b"same", b"l": Link(b"x"), b"m": Link(b"x")}
        path = cache.add("a", tree)
        staging._offers[False] = Blind(
            store.fd, staging._links, path.hash_part, announce=staging.journal.add
        )
        add(store, cache, path)
        store.settle()
        for one, other in (("x", "y"), ("l", "m")):
            first, second = (store.physical(path) / name for name in (one, other))
            assert first.lstat().st_ino == second.lstat().st_ino
