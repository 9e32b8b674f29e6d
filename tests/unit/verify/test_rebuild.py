from __future__ import annotations

import os
import random
import shutil
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from filled_store import Filled, damage, fill
from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.errors import NixfetchError, StoreError
from nixfetch.fetch import fetch_closure
from nixfetch.formats.contentaddress import Method
from nixfetch.plan.sources import MissingError
from nixfetch.plan.trust import TrustPolicy
from nixfetch.store import ContentMismatchError, LocalStore
from nixfetch.store.database import SchemaError
from nixfetch.store.local import NotAStoreError
from nixfetch.store.rebuild import BusyStoreError
from nixfetch.store.refusals import REBUILD, MissingDatabaseError
from nixfetch.store.trees import remove_tree
from nixfetch.verify import (
    LostPathError,
    LostReferenceError,
    Rebuilt,
    rebuild_database,
    verify_paths,
)
from simulated_cache import POLICY, SimulatedCache, store_path
from unit.store.disk_trees import directory, place_of_nobody, python

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath
    from nixfetch.store import Registration

NOW = 1_700_000_000.0
STAMP = "20231114T221320Z"
PAGE = 4096  # bytes


class Place:
    """A cache with a graph in it, and a store that was filled from it."""

    def __init__(self, root: Path, *, paths: int = 40) -> None:
        self.root = root
        self.cache = SimulatedCache()
        below: list[StorePath] = []
        for number in range(paths):
            name = f"path-{number}"
            ca = Method.RECURSIVE if number % 5 == 0 else None
            text = b"%d, after %s" % (number, b" ".join(str(path).encode() for path in below))
            deriver = store_path(f"{name}.drv")
            path = self.cache.add(name, {b"f": text}, references=below, ca=ca, deriver=deriver)
            below = [*below[-2:], path]
        drv = b'Derive([("out","%s","","")],[],[],"x","y",[],[])' % str(below[0]).encode()
        below.append(self.cache.add("some.drv", drv, ca=Method.TEXT))
        self.top = self.cache.add("top", {b"f": b"top"}, references=below)
        with self.caches() as caches, LocalStore(root) as store:
            fetch_closure([self.top], caches=caches, policy=POLICY, store=store)
        self.all = sorted(self.cache.infos)
        self.before = self.registrations()
        self.names = self.listing()

    @property
    def directory(self) -> Path:
        return self.root / "nix/var/nix/db"

    @property
    def database(self) -> Path:
        return self.directory / "db.sqlite"

    @contextmanager
    def caches(self) -> Iterator[CacheGroup]:
        with CacheGroup([BinaryCache(self.cache, sleep=lambda _: None)]) as group:
            yield group

    def registrations(self) -> list[Registration | None]:
        with LocalStore(self.root, read_only=True) as store:
            return [
                None if entry is None else replace(entry, registered=0)
                for entry in map(store.get, store.all_valid())
            ]

    def listing(self) -> list[str]:
        """All files of the store, and their inodes."""
        store = self.root / "nix/store"
        found = (file for file in store.rglob("*") if ".links" not in file.parts)
        return sorted(f"{file.relative_to(store)} {file.lstat().st_ino}" for file in found)

    def rebuild(self, *, policy: TrustPolicy = POLICY) -> Rebuilt:
        told: list[StorePath] = []
        with self.caches() as caches:
            rebuilt = rebuild_database(
                self.root,
                caches=caches,
                policy=policy,
                jobs=2,
                on_result=lambda one: told.append(one.path),
                now=lambda: NOW,
            )
        assert sorted(told) == [one.path for one in rebuilt.left]
        assert self.listing() == self.names
        return rebuilt

    def is_whole(self) -> bool:
        with LocalStore(self.root) as store:
            store.check_database()
            verdicts = verify_paths(store, self.all, policy=POLICY)
        assert (self.directory / "schema").read_text() == "10"
        assert not list(self.directory.glob("rebuild.*"))
        return all(verdict.is_good for verdict in verdicts) and self.registrations() == self.before

    def lose(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self.database.with_name(f"db.sqlite{suffix}").unlink(missing_ok=True)

    def silence(self) -> None:
        """Let the cache have nothing."""
        self.cache.objects.clear()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "store")


def kinds(rebuilt: Rebuilt) -> dict[StorePath, type[NixfetchError]]:
    return {one.path: type(one.problem) for one in rebuilt.left}


def execute(place: Place, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(place.database)) as connection:
        connection.execute(statement, values)
        connection.commit()


def garble(place: Place) -> None:
    """Break the root of an index, so that the database is damaged and its rows are readable."""
    with closing(sqlite3.connect(place.database)) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
        ((page,),) = connection.execute(
            "select rootpage from sqlite_master where name = 'IndexReference'"
        ).fetchall()
    with place.database.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(bytes(PAGE))


def test_a_lost_database_comes_back_from_the_cache(place: Place) -> None:
    place.lose()
    rebuilt = place.rebuild()
    assert rebuilt.recovered == tuple(place.all)
    assert (rebuilt.kept, rebuilt.left, rebuilt.old_database) == ((), (), None)
    assert rebuilt.replaced
    assert not place.cache.opened_nars[len(place.all) :]
    assert place.is_whole()


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("data", [None, b""])
def test_until_then_the_store_does_not_open(
    place: Place, data: bytes | None, *, read_only: bool
) -> None:
    place.lose()
    if data is not None:
        place.database.write_bytes(data)
    with pytest.raises(MissingDatabaseError) as caught:
        LocalStore(place.root, read_only=read_only)
    assert caught.value.hint == REBUILD
    assert "nixfetch verify --rebuild-db" in REBUILD
    assert place.database.exists() == (data is not None)


def test_a_database_without_tables_is_none(place: Place) -> None:
    place.lose()
    with closing(sqlite3.connect(place.database)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("create table Other (id integer)")
    for read_only in (False, True):
        with pytest.raises(MissingDatabaseError):
            LocalStore(place.root, read_only=read_only)
    place.rebuild()
    assert place.is_whole()


def test_what_can_be_read_of_the_old_one_needs_no_cache(place: Place) -> None:
    garble(place)
    place.silence()
    rebuilt = place.rebuild()
    assert rebuilt.recovered == tuple(place.all)
    assert rebuilt.old_database == place.directory / f"db.sqlite.corrupt-{STAMP}"
    assert rebuilt.old_database.stat().st_size
    assert place.is_whole()


def test_outputs_of_derivations_come_back(place: Place) -> None:
    def rows() -> list[tuple[str, str]]:
        with closing(sqlite3.connect(place.database)) as connection:
            return connection.execute("select id, path from DerivationOutputs").fetchall()

    before = rows()
    assert len(before) == 1
    place.lose()
    place.rebuild()
    assert rows() == before


def test_a_claim_that_nobody_vouches_for_is_checked_with_the_caches(place: Place) -> None:
    """A row that lost its references or its signature heals there."""
    victim = place.top
    execute(
        place,
        "delete from Refs where referrer = (select id from ValidPaths where path = ?)",
        str(victim),
    )
    execute(place, "update ValidPaths set sigs = null where path like '%-path-7'")
    garble(place)
    rebuilt = place.rebuild()
    assert rebuilt.left == ()
    assert place.is_whole()


def test_what_was_built_here_is_taken_from_the_old_one(place: Place) -> None:
    execute(place, "update ValidPaths set sigs = null, ultimate = 1 where path like '%-path-7'")
    place.before = place.registrations()
    garble(place)
    place.silence()
    rebuilt = place.rebuild()
    assert rebuilt.left == ()
    assert place.is_whole()


def test_but_not_when_it_lost_references(place: Place) -> None:
    (path,) = [path for path in place.all if path.name == "path-7"]
    execute(place, "update ValidPaths set sigs = null, ultimate = 1 where path = ?", str(path))
    execute(
        place,
        "delete from Refs where referrer = (select id from ValidPaths where path = ?)",
        str(path),
    )
    garble(place)
    place.silence()
    assert kinds(place.rebuild())[path] is MissingError


def test_without_signatures_the_same(place: Place) -> None:
    execute(place, "update ValidPaths set sigs = null")
    garble(place)
    place.silence()
    rebuilt = place.rebuild(policy=TrustPolicy(check=False))
    assert rebuilt.left == ()


def test_what_nobody_vouches_for_stays_on_disk_and_is_told(place: Place) -> None:
    (path,) = [path for path in place.all if path.name == "path-37"]
    del place.cache.objects[place.cache.narinfo_name(path)]
    place.lose()
    rebuilt = place.rebuild()
    told = kinds(rebuilt)
    assert told.pop(path) is MissingError
    assert set(told.values()) == {LostReferenceError}
    assert {one.name for one in told} >= {"top", "path-38"}
    assert set(rebuilt.recovered) == set(place.all) - set(told) - {path}
    with LocalStore(place.root) as store:
        store.check_database()
        assert set(store.all_valid()) == set(rebuilt.recovered)


def test_changed_content_is_not_registered(place: Place) -> None:
    (path,) = [path for path in place.all if path.name == "path-37"]
    file = place.root / "nix/store" / path.base / "f"
    damage(file, b"!")
    garble(place)
    rebuilt = place.rebuild()
    assert kinds(rebuilt)[path] is ContentMismatchError


def test_what_cannot_be_read_is_left(place: Place) -> None:
    (path,) = [path for path in place.all if path.name == "path-37"]
    tree = place.root / "nix/store" / path.base
    tree.chmod(0o755)
    os.mkfifo(tree / "pipe")
    place.names = place.listing()
    place.lose()
    assert kinds(place.rebuild())[path] is ContentMismatchError


def test_a_row_without_a_tree_is_told(place: Place) -> None:
    with directory(place.root / "nix/store") as fd:
        remove_tree(fd, place.top.base.encode())
    place.names = place.listing()
    garble(place)
    rebuilt = place.rebuild()
    assert kinds(rebuilt) == {place.top: LostPathError}
    assert set(rebuilt.recovered) == set(place.all) - {place.top}


def test_where_nothing_comes_back_the_store_stays_closed(place: Place) -> None:
    place.lose()
    place.silence()
    ca = {path for path in place.all if path.name == "path-0"}
    rebuilt = place.rebuild()
    assert set(rebuilt.recovered) == ca  # what a NAR hash alone proves
    shutil.rmtree(place.root / "nix/store" / next(iter(ca)).base)
    place.names = place.listing()
    place.lose()
    rebuilt = place.rebuild()
    assert (rebuilt.recovered, rebuilt.replaced) == ((), False)
    assert set(kinds(rebuilt).values()) == {MissingError}
    with pytest.raises(MissingDatabaseError):
        LocalStore(place.root)


def test_a_sound_database_keeps_its_rows_and_gets_more(place: Place) -> None:
    """As after a Nix that began an empty one, or a key that is trusted no more."""
    execute(
        place,
        "delete from Refs where referrer in (select id from ValidPaths where path like '%-top')",
    )
    execute(place, "delete from ValidPaths where path = ?", str(place.top))
    rebuilt = place.rebuild()
    assert rebuilt.recovered == (place.top,)
    assert set(rebuilt.kept) == set(place.all) - {place.top}
    assert (rebuilt.replaced, rebuilt.old_database) == (False, None)
    assert place.is_whole()
    rebuilt = place.rebuild(policy=TrustPolicy())
    assert rebuilt.kept == tuple(place.all)
    assert place.is_whole()


def test_a_row_that_makes_no_sense_is_a_damage(place: Place) -> None:
    execute(place, "update ValidPaths set sigs = 'nonsense' where path like '%-path-7'")
    rebuilt = place.rebuild()
    assert (rebuilt.replaced, rebuilt.left) == (True, ())
    assert place.is_whole()


def test_a_name_that_only_old_nix_allowed_is_none(place: Place) -> None:
    (path,) = [path for path in place.all if path.name == "path-7"]
    odd = f"/nix/store/{path.hash_part}-a name"
    execute(place, "update ValidPaths set path = ? where path = ?", odd, str(path))
    rebuilt = place.rebuild()
    assert not rebuilt.replaced
    assert set(rebuilt.kept) == set(place.all) - {path}
    assert rebuilt.recovered == (path,)
    with closing(sqlite3.connect(place.database)) as connection:
        rows = connection.execute("select count(*) from ValidPaths").fetchone()
    assert rows == (len(place.all) + 1,)


def test_an_empty_store(tmp_path: Path) -> None:
    with CacheGroup([]) as caches:
        with pytest.raises(NotAStoreError):
            rebuild_database(tmp_path, caches=caches, policy=POLICY)
        (tmp_path / "nix/store").mkdir(parents=True)
        rebuilt = rebuild_database(tmp_path, caches=caches, policy=POLICY)
        assert rebuilt == Rebuilt((), (), (), None, replaced=False)
        (tmp_path / "nix/var/nix/db/db.sqlite").write_bytes(b"garbage")
        assert rebuild_database(tmp_path, caches=caches, policy=POLICY).replaced
    with LocalStore(tmp_path) as store:
        assert store.all_valid() == []


def test_a_store_that_is_open_elsewhere(place: Place) -> None:
    with LocalStore(place.root), pytest.raises(BusyStoreError) as caught:
        place.rebuild()
    assert caught.value.exit_code == 75
    assert caught.value.hint is not None
    assert place.is_whole()


@pytest.mark.parametrize("text", ["", "garbage", "10"])
def test_a_garbled_schema_is_written_again(place: Place, text: str) -> None:
    (place.directory / "schema").write_text(text)
    place.lose()
    place.rebuild()
    assert place.is_whole()


def test_a_database_from_the_future_is_left_alone(place: Place) -> None:
    (place.directory / "schema").write_text("11")
    with pytest.raises(SchemaError):
        place.rebuild()
    assert (place.directory / "schema").read_text() == "11"


def test_a_second_old_database_has_another_name(place: Place) -> None:
    for name in (f"db.sqlite.corrupt-{STAMP}", f"db.sqlite.corrupt-{STAMP}.again"):
        garble(place)
        assert place.rebuild().old_database == place.directory / name
        assert place.is_whole()


def test_a_log_goes_with_its_database(place: Place) -> None:
    garble(place)
    wal = place.database.with_name("db.sqlite-wal")
    wal.write_bytes(b"log")
    place.database.with_name("db.sqlite-shm").write_bytes(b"")
    rebuilt = place.rebuild()
    assert rebuilt.old_database is not None
    kept = rebuilt.old_database
    assert kept.with_name(f"{kept.name}-wal").read_bytes() == b"log"
    assert place.is_whole()


def test_what_an_earlier_run_left_goes(place: Place) -> None:
    left = place.directory / "rebuild.0123"
    left.mkdir()
    (left / "file").write_bytes(b"")
    place.rebuild()
    assert place.is_whole()


def usable(place: Place) -> bool:
    """Whether all is there; else it must have been said clearly."""
    try:
        with LocalStore(place.root) as store:
            store.check_database()
            verdicts = verify_paths(store, store.all_valid(), policy=POLICY, contents=False)
    except StoreError as error:
        if error.hint != REBUILD:
            raise
        return False
    assert [verdict.path for verdict in verdicts] == place.all
    return all(verdict.is_good for verdict in verdicts)


def offsets(count: int, size: int, chooser: random.Random) -> Sequence[int]:
    fixed = (0, 1, 99, 100, 511, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, size - PAGE, size - 1)
    return [*fixed, *(chooser.randrange(size) for _ in range(count - len(fixed)))]


@pytest.mark.parametrize("silent", [False, True])
def test_a_database_that_was_truncated_anywhere(tmp_path: Path, *, silent: bool) -> None:
    place = Place(tmp_path / "store", paths=90)
    whole = place.database.read_bytes()
    if silent:
        place.silence()
    for offset in offsets(20, len(whole), random.Random(1)):
        place.lose()
        place.database.write_bytes(whole[:offset])
        assert not usable(place)
        assert place.listing() == place.names
        rebuilt = place.rebuild()
        if not silent:
            assert (rebuilt.recovered, rebuilt.left) == (tuple(place.all), ())
            assert place.is_whole()


def test_a_database_with_pages_of_zeros(tmp_path: Path) -> None:
    place = Place(tmp_path / "store", paths=90)
    whole = place.database.read_bytes()
    chooser = random.Random(2)
    broken = 0
    for _ in range(20):
        data = bytearray(whole)
        for page in chooser.sample(range(len(whole) // PAGE), 3):
            data[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
        place.lose()
        place.database.write_bytes(bytes(data))
        broken += not usable(place)
        rebuilt = place.rebuild()
        assert rebuilt.left == ()
        assert place.is_whole()
    assert broken == 20


def test_a_database_with_flipped_bytes(place: Place) -> None:
    whole = place.database.read_bytes()
    chooser = random.Random(3)
    for _ in range(30):
        data = bytearray(whole)
        for _ in range(8):
            data[chooser.randrange(len(data))] ^= 1 << chooser.randrange(8)
        place.lose()
        place.database.write_bytes(bytes(data))
        usable(place)
        rebuilt = place.rebuild()
        assert place.listing() == place.names
        assert set(rebuilt.recovered) | set(rebuilt.kept) >= set(place.all) - set(kinds(rebuilt))


def test_an_ordinary_user() -> None:
    code = """
import sys
from pathlib import Path
from unit.store.disk_trees import become_nobody
from unit.verify.test_rebuild import Place
become_nobody()
place = Place(Path(sys.argv[1]) / "store")
place.lose()
print(len(place.rebuild().left))
print(place.is_whole())
"""
    with place_of_nobody() as nobodys:
        assert python(code, nobodys).splitlines() == ["0", "True"]


def test_a_filled_store(tmp_path: Path) -> None:
    """Self references and flat files, from what the old database says."""
    filled: Filled = fill(tmp_path)
    database = tmp_path / "nix/var/nix/db/db.sqlite"
    data = bytearray(database.read_bytes())
    data[-PAGE:] = bytes(PAGE)
    database.write_bytes(data)
    with CacheGroup([]) as caches:
        rebuilt = rebuild_database(tmp_path, caches=caches, policy=POLICY)
    assert [*rebuilt.recovered, *rebuilt.kept] == filled.all
