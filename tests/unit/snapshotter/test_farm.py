from __future__ import annotations

import errno
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import nixfetch
from filled_store import damage
from nixfetch import BinaryCache, CacheGroup, LocalStore, StorePath
from node import Node
from simulated_cache import POLICY, Executable, Link, store_path
from snapshotter.errors import PreconditionError
from snapshotter.farm import FarmError, Farms
from snapshotter.owned import NotOursError
from unit.store.disk_trees import descriptors, entries

if TYPE_CHECKING:
    from collections.abc import Iterator

APP, LIB, FILE, LINK = map(store_path, ("app", "lib", "file", "link"))
NOBODY = store_path("nobody")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    """Its store has directories, a path that is a file, and one that is a link."""
    node = Node(tmp_path_factory.mktemp("node"))
    node.cache.add("lib", {b"lib": {b"a": b"code", b"b": Link(b"a")}, b"empty": {}})
    node.cache.add("app", {b"bin": {b"run": Executable(b"#!")}}, references=[LIB])
    node.cache.add("file", b"words")
    node.cache.add("link", Link(b"/nix/store/whatever"))
    with LocalStore(node.root, durable=False) as store:
        node.fetch([APP, FILE, LINK], store=store, cancelled=lambda: False)
    return node


@pytest.fixture
def store(node: Node) -> Iterator[LocalStore]:
    with LocalStore(node.root, durable=False) as store:
        yield store


@pytest.fixture
def directory(node: Node) -> Iterator[Path]:
    """Where farms are; on the file system of the store."""
    directory = node.root / "nix/var/nixfetch/farms"
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def farms(directory: Path, store: LocalStore) -> Farms:
    return Farms(directory, store)


def test_a_farm_has_its_closure_and_nothing_else(node: Node, farms: Farms) -> None:
    farm = farms.get([APP, LIB])
    assert entries(farm) == ["nix"]
    assert entries(farm / "nix") == ["store"]
    assert entries(farm / "nix/store") == sorted([APP.base, LIB.base])
    for inside in ("lib/a", "lib/b"):
        made = farm / "nix/store" / LIB.base / inside
        assert made.lstat().st_ino == (node.on_disk(LIB) / inside).lstat().st_ino
    assert (farm / "nix/store" / LIB.base / "empty").is_dir()


def test_paths_that_are_files_and_links(node: Node, farms: Farms) -> None:
    farm = farms.get([FILE, LINK]) / "nix/store"
    assert (farm / FILE.base).stat().st_ino == node.on_disk(FILE).stat().st_ino
    assert os.readlink(farm / LINK.base) == "/nix/store/whatever"  # noqa: PTH115 - as it is


def test_what_a_container_would_see_of_its_directories(node: Node, farms: Farms) -> None:
    farm = farms.get([APP])
    for place in (farm, farm / "nix", farm / "nix/store"):
        status = place.stat()
        assert (status.st_mode & 0o7777, status.st_mtime) == (0o755, 1)
    for inside in ("", "bin"):
        made, there = farm / "nix/store" / APP.base / inside, node.on_disk(APP) / inside
        assert made.stat().st_mode == there.stat().st_mode
        assert made.stat().st_mtime_ns == there.stat().st_mtime_ns


def test_equal_closures_share_one(directory: Path, farms: Farms) -> None:
    farm = farms.get((APP, LIB))
    assert farms.get([LIB, APP, LIB]) == farm
    other = farms.get([APP])
    assert farms.names() == {farm.name, other.name}
    assert set(entries(directory)) == farms.names()


def test_a_closure_of_nothing(farms: Farms) -> None:
    assert entries(farms.get([]) / "nix/store") == []


def test_many_who_want_the_same(farms: Farms) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: farms.get([APP, LIB, FILE]), range(32)))
    assert len(found) == 1
    assert farms.names() == {found.pop().name}


def is_intact(store: LocalStore) -> bool:
    verdicts = nixfetch.verify_paths(store, store.all_valid(), policy=POLICY)
    return all(verdict.is_good for verdict in verdicts)


def test_the_store_is_as_it_was(node: Node, farms: Farms) -> None:
    with LocalStore(node.root) as store:
        farms.get([APP, LIB, FILE, LINK])
        assert is_intact(store)
        farms.sweep([])
        assert is_intact(store)


def test_unused_ones_go(directory: Path, farms: Farms) -> None:
    one, other = farms.get([APP]), farms.get([LIB])
    farms.sweep([one.name])
    assert farms.names() == {one.name}
    assert one.is_dir()
    assert not other.exists()
    farms.sweep([])
    assert entries(directory) == []


def test_what_a_crash_left_goes(directory: Path, farms: Farms) -> None:
    left = directory / ".new.0123456789abcdef"
    (left / "nix/store").mkdir(parents=True)
    (left / "nix/store/x").mkdir(mode=0o555)
    assert farms.names() == set()
    farm = farms.get([APP])
    farms.sweep([farm.name])
    assert entries(directory) == [farm.name]


def test_a_sweep_meanwhile_leaves_what_is_being_made(farms: Farms) -> None:
    over = threading.Event()
    used = [farms.get(closure).name for closure in ([APP, LIB], [APP])]

    def sweep() -> None:
        while not over.is_set():
            farms.sweep(used)

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        for _ in range(20):
            for closure in ([APP, LIB], [APP]):
                farm = farms.get(closure)
                assert len(entries(farm / "nix/store")) == len(closure)
                farms.sweep([])
    finally:
        over.set()
        sweeper.join()


@pytest.mark.parametrize("path", [NOBODY, StorePath(""), StorePath("../../etc")])
def test_nothing_but_valid_paths_gets_in(directory: Path, farms: Farms, path: StorePath) -> None:
    with pytest.raises(PreconditionError):
        farms.get([APP, path])
    assert entries(directory) == []


def test_a_path_that_is_fetched_anew_gets_into_a_new_farm(tmp_path: Path, node: Node) -> None:
    """As after a repair: the next container is to see what is good."""
    other = Node(tmp_path, node.cache)
    with LocalStore(other.root, durable=False) as store:
        other.fetch([LIB, FILE], store=store, cancelled=lambda: False)
        farms = Farms(tmp_path / "farms", store)
        before = farms.get([LIB, FILE])
        damage(other.on_disk(LIB) / "lib/a", b"rot!")
        assert (before / "nix/store" / LIB.base / "lib/a").read_bytes() == b"rot!"
        with CacheGroup([BinaryCache(node.cache)]) as caches:
            bad = nixfetch.verify_paths(store, [LIB], policy=POLICY)
            nixfetch.repair_paths(store, bad, caches=caches, policy=POLICY)
        after = farms.get([LIB, FILE])
        assert (after / "nix/store" / LIB.base / "lib/a").read_bytes() == b"code"
        assert before.is_dir()  # somebody may have it mounted
        farms.sweep([after.name])
        assert farms.names() == {after.name}


def test_a_tree_that_somebody_removed(node: Node, tmp_path: Path, directory: Path) -> None:
    other = Node(tmp_path, node.cache)
    with LocalStore(other.root, durable=False) as store:
        other.fetch([FILE, LIB], store=store, cancelled=lambda: False)
        other.on_disk(FILE).unlink()
        with pytest.raises(PreconditionError, match="not there") as caught:
            Farms(tmp_path / "farms", store).get([LIB, FILE])
    assert caught.value.facts["path"] == FILE
    assert entries(tmp_path / "farms") == []


def test_another_file_system(store: LocalStore) -> None:
    elsewhere = Path("/dev/shm")
    if elsewhere.stat().st_dev == os.fstat(store.fd).st_dev:
        pytest.skip("no other file system to be had")
    directory = elsewhere / f"nixfetch-farms-{os.getpid()}"
    try:
        with pytest.raises(FarmError, match="file system of the store") as caught:
            Farms(directory, store).get([APP])
        assert caught.value.hint is not None
        assert entries(directory) == []
    finally:
        shutil.rmtree(directory)


def test_no_room_leaves_nothing(node: Node, directory: Path, store: LocalStore) -> None:
    class Full:
        """A store whose disk is full after the first path."""

        fd, root = store.fd, store.root

        def __init__(self) -> None:
            self.left = 1

        def valid(self, paths: list[StorePath]) -> set[StorePath]:
            return store.valid(paths)

        def link_into(self, path: StorePath, directory_fd: int) -> None:
            if not self.left:
                raise nixfetch.DiskError("no space left on device", errno="ENOSPC")
            self.left -= 1
            store.link_into(path, directory_fd)

    farms = Farms(directory, Full())  # type: ignore[arg-type] # as much of it as farms use
    with pytest.raises(nixfetch.DiskError):
        farms.get([APP, LIB])
    assert entries(directory) == []


def test_a_directory_that_cannot_be(tmp_path: Path, store: LocalStore) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotOursError) as caught:
        Farms(tmp_path / "file/farms", store)
    assert os.strerror(errno.ENOTDIR) in str(caught.value)
    farms = Farms(tmp_path / "farms", store)
    (tmp_path / "farms").rmdir()
    for call in (farms.names, lambda: farms.sweep([]), lambda: farms.get([APP])):
        with pytest.raises(FarmError):
            call()


def test_what_is_no_farm_is_not_swept_away(farms: Farms, directory: Path) -> None:
    stranger = directory / "stranger"
    stranger.mkdir()
    farms.sweep([])
    assert stranger.is_dir()


def test_nothing_stays_open(farms: Farms) -> None:
    before = descriptors()
    farms.get([APP, LIB, FILE, LINK])
    with pytest.raises(PreconditionError):
        farms.get([NOBODY])
    farms.sweep([])
    assert descriptors() == before
