from __future__ import annotations

import logging
import os
import shutil
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from nixfetch.errors import NixfetchError, StoreError
from nixfetch.formats.contentaddress import Method
from nixfetch.formats.hashes import sha256
from nixfetch.formats.nar import NarError
from nixfetch.plan.content import WrongContentError
from nixfetch.plan.trust import TrustPolicy
from nixfetch.store import ContentMismatchError, LocalStore
from nixfetch.store.database import DatabaseError
from nixfetch.store.disk import DiskError
from nixfetch.store.local import NotAStoreError, ReadOnlyStoreError
from nixfetch.store.temproots import StoreClosedError
from simulated_cache import OTHER_KEY, SimulatedCache, store_path, tree_nar
from unit.store.disk_trees import (
    SAMPLE,
    descriptors,
    entries,
    nested,
    place_of_nobody,
    python,
    read_tree,
    restore,
    trees,
)
from unit.store.hostile_nars import cuts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import Trusted


@pytest.fixture
def cache() -> SimulatedCache:
    return SimulatedCache()


@pytest.fixture
def store(memory_path: Path) -> Iterator[LocalStore]:
    with LocalStore(memory_path / "root") as store:
        yield store


def feed(store: LocalStore, trusted: Trusted, pieces: Iterable[bytes]) -> None:
    with store.adding(trusted) as sink:
        for piece in pieces:
            sink.write(piece)


def interrupted(pieces: list[bytes]) -> Iterator[bytes]:
    yield from pieces
    raise KeyboardInterrupt


def add(store: LocalStore, cache: SimulatedCache, *paths: StorePath) -> None:
    for path in paths:
        feed(store, cache.trusted(path), cuts(cache.objects[cache.nar_name(path)], 1000))


def files(top: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()
    }


def nothing_in(store: LocalStore) -> bool:
    return not trees(store.layout.store) and not store.all_valid() and not store.unsettled()


# Opening and closing.


def test_a_new_store_has_the_places_of_nix(memory_path: Path) -> None:
    with LocalStore(memory_path / "a/b") as store:
        assert store.root == memory_path / "a/b"
        assert entries(store.layout.state) == ["db", "gc.lock", "gcroots", "temproots"]
        assert {"big-lock", "db.sqlite", "schema"} <= set(entries(store.layout.database))
        assert os.path.samestat(os.fstat(store.fd), store.layout.store.stat())
        assert (
            store.physical(store_path("x")) == memory_path / "a/b/nix/store" / store_path("x").base
        )


def test_many_open_a_new_store_at_once(memory_path: Path) -> None:
    errors: list[StoreError] = []

    def work(root: Path) -> None:
        try:
            with LocalStore(root) as store:
                store.all_valid()
        except StoreError as error:
            errors.append(error)

    for number in range(20):
        root = memory_path / str(number)
        threads = [threading.Thread(target=work, args=[root]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (root / "nix/var/nix/db/schema").read_text() == "10"
    assert errors == []


def test_a_relative_root_is_taken_as_it_is_now(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(memory_path)
    with LocalStore("root") as store:
        monkeypatch.chdir("/")
        assert store.root == memory_path / "root"
        assert store.all_valid() == []


def test_closing_leaves_no_descriptor(memory_path: Path) -> None:
    before = descriptors()
    LocalStore(memory_path).close()
    LocalStore(memory_path, read_only=True).close()
    assert descriptors() == before


def test_read_only_and_nothing_there(memory_path: Path) -> None:
    with pytest.raises(NotAStoreError) as caught:
        LocalStore(memory_path / "none", read_only=True)
    assert caught.value.hint is not None
    assert entries(memory_path) == []


def test_read_only_changes_nothing(memory_path: Path, cache: SimulatedCache) -> None:
    path = cache.add("a", SAMPLE)
    with LocalStore(memory_path) as store:
        add(store, cache, path)
        store.settle()
    before = files(memory_path)
    with LocalStore(memory_path, read_only=True) as store:
        assert store.hold([path]) == store.valid([path]) == {path}
        with pytest.raises(ReadOnlyStoreError), store.adding(cache.trusted(path)):
            pass
        with pytest.raises(ReadOnlyStoreError):
            store.add_signatures(path, ())
    after = files(memory_path)
    for made_by_sqlite in ("nix/var/nix/db/db.sqlite-shm", "nix/var/nix/db/db.sqlite-wal"):
        after.pop(made_by_sqlite, None)
    assert after == before


def test_a_file_in_the_way_is_a_disk_error(memory_path: Path) -> None:
    before = descriptors()
    (memory_path / "nix").write_bytes(b"")
    with pytest.raises(DiskError) as caught:
        LocalStore(memory_path)
    assert str(caught.value.facts["file"]).startswith(str(memory_path / "nix"))
    assert descriptors() == before


def test_a_damaged_database_leaves_no_descriptor(memory_path: Path) -> None:
    before = descriptors()
    (memory_path / "nix/var/nix/db").mkdir(parents=True)
    (memory_path / "nix/var/nix/db/db.sqlite").write_bytes(b"garbage" * 100)
    with pytest.raises(DatabaseError):
        LocalStore(memory_path)
    with pytest.raises(DiskError):
        LocalStore(memory_path / "nix/var/nix/db/db.sqlite")
    assert descriptors() == before


def test_a_database_without_a_store_directory(memory_path: Path) -> None:
    LocalStore(memory_path).close()
    shutil.rmtree(memory_path / "nix/store")
    with pytest.raises(DiskError):
        LocalStore(memory_path, read_only=True)


# Adding.


def test_a_path_is_valid_once_it_is_settled(store: LocalStore, cache: SimulatedCache) -> None:
    path = cache.add("a", SAMPLE, deriver=store_path("a.drv"))
    add(store, cache, path)
    assert store.valid([path]) == set()
    assert store.unsettled() == [path]
    [staged] = trees(store.layout.store)
    assert staged.startswith(f"{path.hash_part}-nixfetch.")
    assert store.settle() == [path]
    assert entries(store.layout.store) == [path.base]
    assert read_tree(store.physical(path)) == SAMPLE
    found = store.get(path)
    assert found is not None
    info = cache.infos[path]
    assert (found.nar_hash, found.nar_size, found.references) == (
        info.nar_hash,
        info.nar_size,
        (),
    )
    assert (found.signatures, found.deriver) == (info.signatures, store_path("a.drv"))
    assert found.registered > 1_000_000_000
    assert not found.ultimate
    assert store.by_hash_part(path.hash_part) == path
    assert store.settle() == store.unsettled() == []


def test_the_path_is_a_temporary_root_before_it_is_there(
    store: LocalStore, cache: SimulatedCache
) -> None:
    path = cache.add("a")
    file = store.layout.temp_roots / str(os.getpid())
    with store.adding(cache.trusted(path)) as sink:
        assert file.read_text() == f"{path}\0"
        assert trees(store.layout.store) == []
        sink.write(cache.objects[cache.nar_name(path)])


def test_a_referrer_waits_for_what_it_refers_to(store: LocalStore, cache: SimulatedCache) -> None:
    below = cache.add("below")
    middle = cache.add("middle", references=[below, store_path("middle")])
    top = cache.add("top", references=[middle, below])
    add(store, cache, top)
    assert store.settle() == []
    add(store, cache, middle)
    assert store.settle() == []
    assert set(store.unsettled()) == {top, middle}
    assert store.all_valid() == []
    add(store, cache, below)
    assert store.settle() == [below, middle, top]
    found = store.get(middle)
    assert found is not None
    assert found.references == cache.infos[middle].references


def test_references_that_are_valid_already_are_enough(
    memory_path: Path, cache: SimulatedCache
) -> None:
    below = cache.add("below")
    top = cache.add("top", references=[below])
    with LocalStore(memory_path) as store:
        add(store, cache, below)
        store.settle()
    with LocalStore(memory_path) as store:
        add(store, cache, top)
        assert store.settle() == [top]


def test_a_batch_is_registered_in_one_go(store: LocalStore, cache: SimulatedCache) -> None:
    paths = [cache.add("0")]
    for number in range(1, 30):
        paths.append(cache.add(str(number), references=paths[-3:]))
    add(store, cache, *reversed(paths))
    settled = store.settle()
    assert set(settled) == set(paths)
    for position, path in enumerate(settled):
        assert set(cache.infos[path].references) <= set(settled[:position])


def test_added_twice(store: LocalStore, cache: SimulatedCache) -> None:
    path = cache.add("a", SAMPLE)
    add(store, cache, path, path)
    assert len(trees(store.layout.store)) == 1
    assert store.settle() == [path]
    add(store, cache, path)
    store.settle()
    assert entries(store.layout.store) == [path.base]
    assert read_tree(store.physical(path)) == SAMPLE


def test_two_stores_of_one_root(memory_path: Path, cache: SimulatedCache) -> None:
    path = cache.add("a", SAMPLE)
    with LocalStore(memory_path) as one, LocalStore(memory_path) as two:
        add(one, cache, path)
        assert not two.try_lock(path)
        inode = one.settle() and one.physical(path).stat().st_ino
        assert two.try_lock(path)
        assert two.notice([path]) == {path}
        add(two, cache, path)  # in vain, and harmless
        two.settle()
        assert one.physical(path).stat().st_ino == inode
        assert entries(one.layout.store) == [path.base]


@pytest.mark.parametrize("left", [b"other", {b"bin": {b"x": b""}}], ids=["file", "tree"])
def test_what_a_crash_left_at_the_name_is_replaced(
    store: LocalStore, cache: SimulatedCache, left: bytes
) -> None:
    path = cache.add("a", SAMPLE)
    restore(store.layout.store, left, path.base.encode())
    add(store, cache, path)
    assert store.settle() == [path]
    assert read_tree(store.physical(path)) == SAMPLE


def test_a_deep_tree_needs_leave(memory_path: Path, cache: SimulatedCache) -> None:
    path = cache.add("deep", nested(199))
    with LocalStore(memory_path) as store:
        with pytest.raises(NarError):
            add(store, cache, path)
        assert nothing_in(store)
    with LocalStore(memory_path, max_depth=200) as store:
        add(store, cache, path)
        assert store.settle() == [path]
        assert read_tree(store.physical(path)) == nested(199)


def test_outputs_of_a_derivation_are_registered(store: LocalStore, cache: SimulatedCache) -> None:
    out = store_path("a")
    text = f'Derive([("out","{out}","","")],[],[],"x","y",[],[])'.encode()
    path = cache.add("a.drv", text)
    add(store, cache, path)
    store.settle()
    rows = store._database._query("select id, path from DerivationOutputs")
    assert rows == [("out", str(out))]


# What is not what it should be.


def refused(store: LocalStore, trusted: Trusted, nar: bytes) -> NixfetchError:
    """The error that adding `nar` as `trusted` gives, which leaves nothing."""
    with pytest.raises(NixfetchError) as caught:
        feed(store, trusted, cuts(nar, 100))
    assert nothing_in(store)
    return caught.value


def test_another_hash(store: LocalStore, cache: SimulatedCache) -> None:
    path = cache.add("a", b"one")
    other = tree_nar(b"two")
    error = refused(store, cache.trusted(path), other)
    assert isinstance(error, ContentMismatchError)
    assert error.problem == "archive has the wrong hash"
    assert error.facts["expected"] == str(cache.infos[path].nar_hash)
    assert error.facts["actual"] == str(sha256(other))
    assert error.facts["path"] == path


def test_another_size(store: LocalStore, cache: SimulatedCache) -> None:
    path = cache.add("a", bytes(100))
    error = refused(store, cache.trusted(path), tree_nar(b"less"))
    assert isinstance(error, ContentMismatchError)
    assert error.problem == "archive has the wrong size"


def test_more_than_was_signed_stops_early(store: LocalStore, cache: SimulatedCache) -> None:
    path = cache.add("a", bytes(1000))
    pieces = iter(cuts(tree_nar({b"%d" % n: b"x" for n in range(3000)}), 100))
    with pytest.raises(ContentMismatchError, match="larger than signed"):
        feed(store, cache.trusted(path), pieces)
    assert len(list(pieces)) > 1000
    assert nothing_in(store)


def test_a_file_that_claims_more_than_the_archive_has(
    store: LocalStore, cache: SimulatedCache
) -> None:
    path = cache.add("a", bytes(1000))
    error = refused(store, cache.trusted(path), tree_nar(bytes(2000))[:1000])
    assert isinstance(error, NarError)


@pytest.mark.parametrize("method", [Method.TEXT, Method.FLAT, Method.RECURSIVE, Method.GIT])
def test_content_addresses(store: LocalStore, cache: SimulatedCache, method: Method) -> None:
    path = cache.add("text", b"some text", ca=method)
    assert cache.infos[path].signatures == ()
    add(store, cache, path)
    assert store.settle() == [path]
    found = store.get(path)
    assert found is not None
    assert found.ca == cache.infos[path].ca


@pytest.mark.parametrize("method", [Method.TEXT, Method.FLAT, Method.RECURSIVE, Method.GIT])
def test_a_false_content_address(store: LocalStore, cache: SimulatedCache, method: Method) -> None:
    path = cache.add("text", b"some text", ca=method)
    nar = tree_nar(b"same size")
    # Whoever runs the cache writes any NAR hash: no signature speaks for it.
    cache.publish(replace(cache.infos[path], nar_hash=sha256(nar)), key=None)
    assert isinstance(refused(store, cache.trusted(path), nar), WrongContentError)


def test_a_program_where_a_text_should_be(store: LocalStore, cache: SimulatedCache) -> None:
    path = cache.add("text", b"some text", ca=Method.TEXT)
    nar = tree_nar({b"a": b"some text"})
    cache.publish(replace(cache.infos[path], nar_hash=sha256(nar), nar_size=len(nar)), key=None)
    assert isinstance(refused(store, cache.trusted(path), nar), WrongContentError)


@pytest.mark.parametrize("at", [0, 1, 3])
def test_leaving_by_an_exception_leaves_nothing(
    store: LocalStore, cache: SimulatedCache, at: int
) -> None:
    path = cache.add("a", SAMPLE)
    add(store, cache, cache.add("first", b""))  # so that the shelf of new files is there
    store.abandon()
    before = descriptors()
    with pytest.raises(KeyboardInterrupt):
        feed(store, cache.trusted(path), interrupted(cuts(tree_nar(SAMPLE), 400)[:at]))
    assert nothing_in(store)
    assert descriptors() == before
    add(store, cache, path)
    assert store.settle() == [path]
    store.close()
    assert entries(store.layout.store) == [path.base]


# Closing early.


def test_what_waits_is_dropped_by_abandon_and_close(
    memory_path: Path, cache: SimulatedCache
) -> None:
    top = cache.add("top", SAMPLE, references=[store_path("missing")])
    with LocalStore(memory_path) as store:
        add(store, cache, top)
        store.settle()
        store.abandon()
        assert nothing_in(store)
        add(store, cache, top)
    assert entries(memory_path / "nix/store") == []


def test_a_thread_that_is_still_adding_is_cut_off(memory_path: Path, cache: SimulatedCache) -> None:
    path = cache.add("a", SAMPLE)
    store = LocalStore(memory_path)
    begun, closed = threading.Event(), threading.Event()
    errors: list[Exception] = []

    def work() -> None:
        try:
            with store.adding(cache.trusted(path)) as sink:
                pieces = cuts(tree_nar(SAMPLE), 400)
                sink.write(pieces[0])
                begun.set()
                closed.wait(10)
                for piece in pieces[1:]:
                    sink.write(piece)
        except (StoreClosedError, DiskError) as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait(10)
    fd = store.fd
    store.close()
    closed.set()
    thread.join()
    assert len(errors) == 1
    assert entries(memory_path / "nix/store") == []
    os.close(fd)


def test_a_finished_thread_finds_the_store_closed(memory_path: Path, cache: SimulatedCache) -> None:
    path = cache.add("a", b"data")
    store = LocalStore(memory_path)
    fd = store.fd

    def pieces() -> Iterator[bytes]:
        yield cache.objects[cache.nar_name(path)]
        store.close()

    with pytest.raises(StoreClosedError):
        feed(store, cache.trusted(path), pieces())
    os.close(fd)
    assert entries(memory_path / "nix/store") == []


def test_a_closed_store_takes_nothing(memory_path: Path, cache: SimulatedCache) -> None:
    path = cache.add("a")
    store = LocalStore(memory_path)
    store.close()
    with pytest.raises(StoreClosedError), store.adding(cache.trusted(path)):
        pass
    with pytest.raises(StoreClosedError):
        store.hold([path])


def test_a_failing_settle_registers_nothing(store: LocalStore, cache: SimulatedCache) -> None:
    one, two = cache.add("one", SAMPLE), cache.add("two", SAMPLE)
    add(store, cache, one, two)
    [staged] = [
        name for name in entries(store.layout.store) if name.startswith(f"{two.hash_part}-nixfetch")
    ]
    (store.layout.store / staged).rename(store.root / "stolen")
    with pytest.raises(DiskError, match="no such file") as caught:
        store.settle()
    assert caught.value.facts["file"] == str(store.physical(two))
    assert store.all_valid() == []


def test_what_cannot_be_removed_is_logged(
    store: LocalStore, cache: SimulatedCache, caplog: pytest.LogCaptureFixture
) -> None:
    path = cache.add("a", {b"d": {b"x": b""}})
    add(store, cache, path)
    [staged] = trees(store.layout.store)
    staging = store._writable
    with caplog.at_level(logging.WARNING):
        staging._fd, fd = os.open("/dev/null", os.O_RDONLY), staging._fd
        store.abandon()
        os.close(staging._fd)
        staging._fd = fd
    assert "cannot remove" in caplog.text
    assert "Errno" not in caplog.text
    assert trees(store.layout.store) == [staged]


# The rest.


def test_signatures_can_be_added(store: LocalStore, cache: SimulatedCache) -> None:
    path = cache.add("a")
    add(store, cache, path)
    store.settle()
    signature = OTHER_KEY.sign(b"message")
    assert store.add_signatures(path, [signature])
    assert not store.add_signatures(path, [signature])
    assert not store.add_signatures(store_path("none"), [signature])
    found = store.get(path)
    assert found is not None
    assert {one.key_name for one in found.signatures} == {"simulated-1", "other-1"}


def test_threads_add_at_the_same_time(store: LocalStore, cache: SimulatedCache) -> None:
    paths = [cache.add(str(number), SAMPLE) for number in range(12)]

    def work(mine: list[StorePath]) -> None:
        for path in mine:
            add(store, cache, path)
            store.settle()

    threads = [threading.Thread(target=work, args=[paths[n::4] + paths[:3]]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.settle()
    assert store.all_valid() == sorted(paths)
    assert entries(store.layout.store) == sorted(path.base for path in paths)


def test_an_ordinary_user_has_a_store() -> None:
    code = """
import sys
from pathlib import Path
from nixfetch.store import LocalStore
from simulated_cache import SimulatedCache, store_path
from unit.store.disk_trees import SAMPLE, become_nobody, entries, restore
from unit.store.test_local import add
cache = SimulatedCache()
paths = [cache.add("a", SAMPLE), cache.add("b", SAMPLE, references=[store_path("none")])]
trusted = [cache.trusted(path) for path in paths]
become_nobody()
with LocalStore(sys.argv[1]) as store:
    restore(store.layout.store, SAMPLE, paths[0].base.encode())
    add(store, cache, *paths)
    print(store.settle() == paths[:1])
print(entries(store.layout.store) == [paths[0].base])
with LocalStore(sys.argv[1], read_only=True) as store:
    print(store.all_valid() == paths[:1])
"""
    with place_of_nobody() as place:
        assert python(code, place).split() == ["True", "True", "True"]


def test_an_ordinary_user_is_told_to_choose_another_store() -> None:
    code = """
import sys
from pathlib import Path
from nixfetch.store import LocalStore
from nixfetch.store.disk import DiskError
from unit.store.disk_trees import become_nobody
become_nobody()
Path(sys.argv[1]).chmod(0o555)
try:
    LocalStore(sys.argv[1])
except DiskError as error:
    print(error.hint)
"""
    with place_of_nobody() as place:
        assert python(code, place) == "choose a store that you may write to with --store\n"


def test_unsigned_paths_where_the_user_wants_them(store: LocalStore) -> None:
    cache = SimulatedCache(key=None)
    path = cache.add("a", SAMPLE)
    feed(store, cache.trusted(path, TrustPolicy(check=False)), [tree_nar(SAMPLE)])
    assert store.settle() == [path]
