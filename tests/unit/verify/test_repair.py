from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from filled_store import damage
from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.errors import TransportError
from nixfetch.fetch import fetch_closure
from nixfetch.formats.contentaddress import Method
from nixfetch.formats.hashes import sha256
from nixfetch.plan.sources import AllSourcesFailedError, MissingError
from nixfetch.plan.trust import TrustPolicy, UnsignedError
from nixfetch.store import ContentMismatchError, LocalStore
from nixfetch.store.disk import DiskError
from nixfetch.store.local import ReadOnlyStoreError
from nixfetch.store.trees import remove_tree
from nixfetch.transport.base import NotFoundError
from nixfetch.verify import (
    LostPathError,
    LostReferenceError,
    MetadataError,
    NotRegisteredError,
    OtherContentError,
    Verdict,
    repair_links,
    repair_paths,
    verify_links,
    verify_paths,
)
from nixfetch.verify.repair import BusyPathError
from simulated_cache import (
    KEY,
    OTHER_KEY,
    POLICY,
    CutAfter,
    Executable,
    FlippedByte,
    Link,
    Missing,
    SimulatedCache,
    Slow,
    store_path,
)
from unit.store.disk_trees import directory, place_of_nobody, python, read_tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath
    from simulated_cache import Tree

LIBRARY: Tree = {
    b"lib": {b"a": b"code", b"b": Executable(b"more"), b"c": Link(b"a"), b"license": b"GPL"},
    b"none": {},
}


class Place:
    """A cache, and a store that was filled from it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = SimulatedCache()
        self.library = self.cache.add("library", LIBRARY)
        self.text = self.cache.add("text", b"words", ca=Method.FLAT)
        self.link = self.cache.add("link", Link(b"/nowhere"))
        self.twin = self.cache.add("twin", {b"license": b"GPL", b"own": b"own"})
        self.top = self.cache.add(
            "top", {b"run": Executable(b"#!")}, references=[self.library, self.text, self.link]
        )
        with self.caches() as caches, LocalStore(root) as store:
            fetch_closure([self.top, self.twin], caches=caches, policy=POLICY, store=store, jobs=1)
        self.before = self.trees()

    @contextmanager
    def caches(self, *others: SimulatedCache) -> Iterator[CacheGroup]:
        several = [*others, self.cache]
        with CacheGroup([BinaryCache(one, sleep=lambda _: None) for one in several]) as group:
            yield group

    def on_disk(self, path: StorePath) -> Path:
        return self.root / "nix/store" / path.base

    def trees(self) -> dict[str, Tree]:
        return {
            entry.name: read_tree(entry)
            for entry in (self.root / "nix/store").iterdir()
            if entry.name != ".links"
        }

    def remove(self, path: StorePath) -> None:
        with directory(self.root / "nix/store") as fd:
            remove_tree(fd, path.base.encode())

    def verify(self, paths: Iterable[StorePath] = (), *, contents: bool = True) -> list[Verdict]:
        with LocalStore(self.root, read_only=True) as store:
            return verify_paths(store, paths or store.all_valid(), policy=POLICY, contents=contents)

    def repair(
        self,
        paths: Iterable[StorePath] = (),
        *,
        others: Iterable[SimulatedCache] = (),
        policy: TrustPolicy = POLICY,
        contents: bool = True,
        dedup: bool = True,
    ) -> dict[StorePath, Verdict]:
        """What was told of."""
        told: list[Verdict] = []
        with self.caches(*others) as caches, LocalStore(self.root, dedup=dedup) as store:
            verdicts = repair_paths(
                store,
                self.verify(paths, contents=contents),
                caches=caches,
                policy=policy,
                jobs=2,
                on_result=told.append,
            )
            repair_links(store, verify_links(store))
        by_path = {verdict.path: verdict for verdict in told}
        assert len(by_path) == len(told)
        assert all(verdict in verdicts for verdict in told)
        assert not list((self.root / "nix/var/nixfetch/inflight").iterdir())
        return by_path

    def is_whole(self) -> bool:
        with LocalStore(self.root, read_only=True) as store:
            assert verify_links(store) == []
        verdicts = self.verify()
        return self.trees() == self.before and not any(
            verdict.problems or verdict.warnings for verdict in verdicts
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "store")


def kinds(errors: Iterable[Exception]) -> list[type[Exception]]:
    return list(map(type, errors))


def test_a_whole_store_needs_no_repair(place: Place) -> None:
    before = place.cache.opened
    assert place.repair() == {}
    assert place.cache.opened == before
    assert place.is_whole()


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    damage(file, bytes(data))


def test_a_flipped_byte(place: Place) -> None:
    flip(place.on_disk(place.library) / "lib/a")
    told = place.repair()
    (verdict,) = told.values()
    assert verdict.path == place.library
    assert verdict.is_good
    assert kinds(verdict.repaired) == [ContentMismatchError]
    assert verdict.repaired_from == place.cache.url
    assert verdict.signed_by == ("simulated-1",)
    assert place.is_whole()


def test_the_registration_stays(place: Place) -> None:
    with LocalStore(place.root, read_only=True) as store:
        before = [store.get(path) for path in store.all_valid()]
    flip(place.on_disk(place.library) / "lib/a")
    flip(place.on_disk(place.text))
    assert set(place.repair()) == {place.library, place.text}
    with LocalStore(place.root, read_only=True) as store:
        assert [store.get(path) for path in store.all_valid()] == before


def test_files_and_links_as_roots(place: Place) -> None:
    damage(place.on_disk(place.text), b"")
    place.on_disk(place.link).unlink()
    place.on_disk(place.link).symlink_to("elsewhere")
    assert set(place.repair()) == {place.text, place.link}
    assert place.is_whole()


def test_one_kind_in_the_place_of_another(place: Place) -> None:
    lib = place.on_disk(place.library) / "lib"
    lib.chmod(0o755)
    (lib / "c").unlink()
    (lib / "c").write_bytes(b"a file now")
    (lib / "a").unlink()
    (lib / "a").mkdir()
    place.on_disk(place.text).unlink()
    place.on_disk(place.text).mkdir()
    (place.on_disk(place.text) / "x").write_bytes(b"in it")
    assert set(place.repair()) == {place.text, place.library}
    assert place.is_whole()


def test_things_that_no_archive_holds(place: Place) -> None:
    lib = place.on_disk(place.library) / "lib"
    lib.chmod(0o755)
    os.mkfifo(lib / "pipe")
    assert set(place.repair()) == {place.library}
    assert place.is_whole()


def test_a_lost_path_comes_back_and_its_referrer_is_good_again(place: Place) -> None:
    place.remove(place.library)
    place.remove(place.text)
    told = place.repair()
    assert kinds(told[place.library].repaired) == [LostPathError]
    assert kinds(told[place.top].repaired) == [LostReferenceError]
    assert set(told) == {place.library, place.text, place.top}
    assert place.is_whole()


@pytest.mark.parametrize("contents", [True, False])
def test_a_lost_reference_of_what_was_asked_for_comes_back(place: Place, *, contents: bool) -> None:
    place.remove(place.library)
    told = place.repair([place.top], contents=contents)
    assert set(told) == {place.library, place.top}
    assert all(verdict.is_good for verdict in told.values())
    assert place.is_whole()


def test_what_is_lost_and_in_no_cache_stays_reported(place: Place) -> None:
    place.remove(place.library)
    place.cache.faults[place.cache.narinfo_name(place.library)] = Missing()
    told = place.repair()
    assert kinds(told[place.library].problems) == [LostPathError, MissingError]
    assert told[place.library].problems[1].facts["caches"] == [place.cache.url]
    assert kinds(told[place.top].problems) == [LostReferenceError]
    assert not place.on_disk(place.library).exists()


def test_a_bad_file_is_repaired_in_all_that_share_it(place: Place) -> None:
    shared = place.on_disk(place.library) / "lib/license"
    assert shared.samefile(place.on_disk(place.twin) / "license")
    flip(shared)
    assert set(place.repair()) == {place.library, place.twin}
    assert place.is_whole()
    assert shared.samefile(place.on_disk(place.twin) / "license")


def test_also_where_only_one_of_them_was_asked_for(place: Place) -> None:
    flip(place.on_disk(place.library) / "lib/license")
    told = place.repair([place.library])
    assert set(told) == {place.library, place.twin}
    assert told[place.twin].repaired_from == place.cache.url
    assert place.is_whole()


def test_also_where_nothing_in_links_tells(place: Place) -> None:
    flip(place.on_disk(place.library) / "lib/license")
    for entry in (place.root / "nix/store/.links").iterdir():
        entry.unlink()
    assert set(place.repair([place.library])) == {place.library, place.twin}
    assert place.is_whole()


def test_a_shared_file_that_is_good_elsewhere_is_no_repair(place: Place) -> None:
    """Somebody linked a good file over another one: only one of the two paths is bad."""
    lib = place.on_disk(place.library) / "lib"
    lib.chmod(0o755)
    (lib / "a").unlink()
    (lib / "a").hardlink_to(place.on_disk(place.twin) / "own")
    lib.chmod(0o555)
    assert set(place.repair([place.library])) == {place.library}
    assert place.is_whole()


def test_good_files_stay_shared_and_are_not_written_again(place: Place) -> None:
    lib = place.on_disk(place.library) / "lib"
    inode = (lib / "b").stat().st_ino
    flip(lib / "a")
    place.repair()
    assert (lib / "b").stat().st_ino == inode
    links = place.root / "nix/store/.links"
    assert (lib / "a").stat().st_ino in {entry.lstat().st_ino for entry in links.iterdir()}


def test_a_bad_entry_of_links_is_not_linked(place: Place) -> None:
    """The path's own file is a good one that nobody else has."""
    text = place.on_disk(place.text)
    (entry,) = [
        one
        for one in (place.root / "nix/store/.links").iterdir()
        if not one.is_symlink() and one.samefile(text)
    ]
    text.unlink()
    damage(entry, b"sword")
    assert set(place.repair([place.text])) == {place.text}
    assert entry.read_bytes() == b"words"
    assert place.is_whole()


def test_without_dedup_files_are_their_own(place: Place) -> None:
    flip(place.on_disk(place.library) / "lib/license")
    assert set(place.repair(dedup=False)) == {place.library, place.twin}
    assert (place.on_disk(place.library) / "lib/license").stat().st_nlink == 1
    assert place.is_whole()


def test_metadata_is_put_right_in_place(place: Place) -> None:
    lib = place.on_disk(place.library) / "lib"
    lib.chmod(0o700)
    (lib / "a").chmod(0o644)
    os.utime(lib / "c", (5, 5), follow_symlinks=False)
    inode = lib.stat().st_ino
    before = place.cache.opened
    (bad,) = [verdict for verdict in place.verify() if verdict.warnings]
    assert bad.is_good
    assert kinds(bad.warnings) == [MetadataError]
    assert (bad.warnings[0].facts["files"], bad.warnings[0].facts["found"]) == (3, "mode 0700")
    (verdict,) = place.repair().values()
    assert (verdict.is_good, verdict.warnings, verdict.repaired_from) == (True, (), None)
    assert kinds(verdict.repaired) == [MetadataError]
    assert place.cache.opened == before
    assert lib.stat().st_ino == inode
    assert place.is_whole()


def test_metadata_and_content(place: Place) -> None:
    file = place.on_disk(place.library) / "lib/a"
    file.chmod(0o644)
    file.write_bytes(b"changed")
    (verdict,) = place.repair().values()
    assert kinds(verdict.repaired) == [MetadataError, ContentMismatchError]
    assert place.is_whole()


def test_a_bad_first_cache_and_a_good_second(place: Place) -> None:
    flip(place.on_disk(place.library) / "lib/a")
    first = SimulatedCache(url="simulated://first")
    first.add("library", LIBRARY)
    first.faults[first.nar_name(place.library)] = FlippedByte(200)
    (verdict,) = place.repair(others=[first]).values()
    assert verdict.repaired_from == place.cache.url
    assert first.opened_nars
    assert place.is_whole()


def test_an_interrupted_download_goes_on(place: Place) -> None:
    flip(place.on_disk(place.library) / "lib/a")
    place.cache.faults[place.cache.nar_name(place.library)] = CutAfter(100)
    assert set(place.repair()) == {place.library}
    assert place.is_whole()


def test_other_content_is_refused_whoever_signed_it(place: Place) -> None:
    flip(place.on_disk(place.library) / "lib/a")
    bad = read_tree(place.on_disk(place.library))
    other = SimulatedCache(url="simulated://other")
    assert other.add("library", {b"other": b"content"}) == place.library
    place.cache.faults[place.cache.narinfo_name(place.library)] = Missing()
    (verdict,) = place.repair(others=[other]).values()
    mismatch, failure = verdict.problems
    assert isinstance(failure, AllSourcesFailedError)
    (url, refusal), (_, missing) = failure.errors
    assert (url, type(refusal)) == (other.url, OtherContentError)
    assert refusal.facts["expected"] == mismatch.facts["expected"]
    assert refusal.facts["actual"] == str(other.infos[place.library].nar_hash)
    assert isinstance(missing, NotFoundError)
    assert failure.exit_code == 4
    assert not other.opened_nars
    assert read_tree(place.on_disk(place.library)) == bad


def test_other_content_and_a_good_second_cache(place: Place) -> None:
    flip(place.on_disk(place.library) / "lib/a")
    other = SimulatedCache(url="simulated://other")
    other.add("library", {b"other": b"content"})
    (verdict,) = place.repair(others=[other]).values()
    assert verdict.repaired_from == place.cache.url
    assert place.is_whole()


def test_nobody_is_believed_unasked(place: Place) -> None:
    flip(place.on_disk(place.library) / "lib/a")
    policy = TrustPolicy((OTHER_KEY.public(),))
    (verdict,) = place.repair(policy=policy).values()
    assert UnsignedError in kinds(verdict.problems)
    assert not verdict.is_good
    assert place.cache.opened_nars.count(place.cache.nar_name(place.library)) == 1


def test_a_missing_signature_is_not_made_up(place: Place) -> None:
    with LocalStore(place.root) as store, place.caches() as caches:
        policy = replace(POLICY, needed=2)
        verdicts = verify_paths(store, [place.library], policy=policy)
        assert repair_paths(store, verdicts, caches=caches, policy=policy) == verdicts
    assert kinds(verdicts[0].problems) == [UnsignedError]


def test_what_is_not_registered_is_left(place: Place) -> None:
    gone = store_path("gone")
    with LocalStore(place.root) as store, place.caches() as caches:
        verdicts = verify_paths(store, [gone], policy=POLICY)
        (verdict,) = repair_paths(store, verdicts, caches=caches, policy=POLICY)
        # Collected between the two.
        lost = Verdict(gone, (LostPathError("path is registered, but not there"),))
        (again,) = repair_paths(store, [lost], caches=caches, policy=POLICY)
    assert kinds(verdict.problems) == kinds(again.problems) == [NotRegisteredError]


def test_another_process_that_was_first(place: Place) -> None:
    flip(place.on_disk(place.library) / "lib/a")
    stale = place.verify([place.library])
    place.repair()
    before = place.cache.opened
    with LocalStore(place.root) as store, place.caches() as caches:
        (verdict,) = repair_paths(store, stale, caches=caches, policy=POLICY)
    assert verdict.is_good
    assert place.cache.opened == before


def test_another_process_that_is_at_it(place: Place) -> None:
    flip(place.on_disk(place.library) / "lib/a")
    pauses: list[float] = []
    with (
        LocalStore(place.root) as other,
        LocalStore(place.root) as store,
        place.caches() as caches,
    ):
        assert other.try_lock(place.library)
        verdicts = place.verify([place.library])
        (verdict,) = repair_paths(
            store, verdicts, caches=caches, policy=POLICY, sleep=pauses.append, patience=1.0
        )
        assert kinds(verdict.problems) == [BusyPathError]
        assert sum(pauses) == pytest.approx(1.0, abs=0.2)

        def end(_: float) -> None:
            other.unlock(place.library)

        (verdict,) = repair_paths(store, verdicts, caches=caches, policy=POLICY, sleep=end)
        assert verdict.is_good
    assert place.is_whole()


def test_a_store_that_is_read_only(place: Place) -> None:
    flip(place.on_disk(place.library) / "lib/a")
    with LocalStore(place.root, read_only=True) as store, place.caches() as caches:
        verdicts = verify_paths(store, [place.library], policy=POLICY)
        (verdict,) = repair_paths(store, verdicts, caches=caches, policy=POLICY)
    assert kinds(verdict.problems) == [ReadOnlyStoreError]


def test_whoever_listens_can_stop_it_and_nothing_is_left(place: Place) -> None:
    flip(place.on_disk(place.library) / "lib/a")
    flip(place.on_disk(place.text))
    gate = threading.Event()
    place.cache.faults[place.cache.nar_name(place.library)] = Slow(gate, 10)

    def stop(_: Verdict) -> None:
        gate.set()
        raise KeyboardInterrupt

    names = sorted(place.trees())
    with place.caches() as caches, LocalStore(place.root) as store:
        verdicts = verify_paths(store, [place.library, place.text], policy=POLICY)
        with pytest.raises(KeyboardInterrupt):
            repair_paths(store, verdicts, caches=caches, policy=POLICY, jobs=2, on_result=stop)
    assert sorted(place.trees()) == names
    place.repair()
    assert place.is_whole()


def test_a_cache_that_cannot_be_reached(place: Place) -> None:
    flip(place.on_disk(place.library) / "lib/a")
    place.cache.faults[place.cache.nar_name(place.library)] = CutAfter(0, times=99)
    (verdict,) = place.repair().values()
    assert isinstance(verdict.problems[-1], TransportError)
    assert sorted(place.trees()) == sorted(place.before)


def test_a_hundred_flipped_bytes(tmp_path: Path) -> None:
    cache = SimulatedCache()
    trees: list[Tree] = [
        {
            b"common": {str(n).encode(): b"common %d" % n for n in range(10)},
            b"own": {str(n).encode(): b"%d of %d" % (n, number) for n in range(12)},
        }
        for number in range(10)
    ]
    paths = [cache.add(f"path-{number}", tree) for number, tree in enumerate(trees)]
    with CacheGroup([BinaryCache(cache)]) as caches, LocalStore(tmp_path) as store:
        fetch_closure(paths, caches=caches, policy=POLICY, store=store, jobs=1)
        files = {
            (file.stat().st_ino): file
            for path in paths
            for file in store.physical(path).rglob("*")
            if file.is_file()
        }
        assert len(files) == 130
        chosen = [*list(files.values())[::-1][:99], store.physical(paths[0]) / "common/0"]
        assert len({file.stat().st_ino for file in chosen}) == 100
        for file in chosen:
            flip(file)
        verdicts = verify_paths(store, paths, policy=POLICY)
        assert not any(verdict.is_good for verdict in verdicts)
        assert len(verify_links(store)) == 100
        repaired = repair_paths(store, verdicts, caches=caches, policy=POLICY)
        assert all(verdict.is_good and verdict.repaired for verdict in repaired)
        assert repair_links(store, verify_links(store)) == []
        assert verify_links(store) == []
        assert all(verdict.is_good for verdict in verify_paths(store, paths, policy=POLICY))
        for path, tree in zip(paths, trees, strict=True):
            assert read_tree(store.physical(path)) == tree
        assert (store.physical(paths[3]) / "common/0").samefile(
            store.physical(paths[7]) / "common/0"
        )


def test_an_ordinary_user_repairs() -> None:
    code = """
import sys
from pathlib import Path
from unit.store.disk_trees import become_nobody
from unit.verify.test_repair import Place, flip
become_nobody()
place = Place(Path(sys.argv[1]) / "store")
flip(place.on_disk(place.library) / "lib/license")
damaged = place.on_disk(place.text)
damaged.chmod(0)
place.remove(place.link)
print(sorted(verdict.is_good for verdict in place.repair().values()))
print(place.is_whole())
"""
    with place_of_nobody() as nobodys:
        assert python(code, nobodys).splitlines() == [
            "[True, True, True, True, True]",
            "True",
        ]


def test_a_disk_that_lost_the_data_is_worth_a_fresh_file(place: Place) -> None:
    lost = Verdict(place.text, (DiskError("input/output error", file="text", errno="EIO"),))
    denied = Verdict(place.text, (DiskError("denied", file="text", errno="EACCES"),))
    flip(place.on_disk(place.text))
    with LocalStore(place.root) as store, place.caches() as caches:
        for verdict in (lost, denied):
            (after,) = repair_paths(store, [verdict], caches=caches, policy=POLICY)
            assert after.is_good


def test_a_hash_that_was_changed_in_the_database(place: Place) -> None:
    with LocalStore(place.root) as store, place.caches() as caches:
        with store._database.writing():
            store._database._connection.execute(
                "update ValidPaths set hash = ? where path = ?",
                [f"sha256:{sha256(b'x').hex}", str(place.library)],
            )
        verdicts = verify_paths(store, [place.library], policy=POLICY)
        (verdict,) = repair_paths(store, verdicts, caches=caches, policy=POLICY)
    assert kinds(verdict.problems) == [UnsignedError, ContentMismatchError, OtherContentError]
    assert place.trees() == place.before


def test_a_signature_of_another_key_is_no_reason_to_refuse(place: Place) -> None:
    flip(place.on_disk(place.library) / "lib/a")
    info = replace(place.cache.infos[place.library], signatures=())
    place.cache.publish(info, key=OTHER_KEY)
    both = TrustPolicy((KEY.public(), OTHER_KEY.public()))
    assert place.repair(policy=both)[place.library].is_good
    assert place.is_whole()
