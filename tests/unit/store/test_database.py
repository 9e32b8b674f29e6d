from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from nixfetch.errors import StoreError
from nixfetch.formats.contentaddress import ContentAddress
from nixfetch.formats.hashes import sha256
from nixfetch.store.database import (
    Database,
    DatabaseError,
    Registration,
    SchemaError,
)
from nixfetch.store.refusals import REBUILD
from simulated_cache import KEY, store_path
from unit.store.disk_trees import entries, place_of_nobody, python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath

SCHEMA = {
    "ValidPaths": [
        ("id", "INTEGER", 1, 1),
        ("path", "TEXT", 1, 0),
        ("hash", "TEXT", 1, 0),
        ("registrationTime", "INTEGER", 1, 0),
        ("deriver", "TEXT", 0, 0),
        ("narSize", "INTEGER", 0, 0),
        ("ultimate", "INTEGER", 0, 0),
        ("sigs", "TEXT", 0, 0),
        ("ca", "TEXT", 0, 0),
    ],
    "Refs": [("referrer", "INTEGER", 1, 1), ("reference", "INTEGER", 1, 2)],
    "DerivationOutputs": [("drv", "INTEGER", 1, 1), ("id", "TEXT", 1, 2), ("path", "TEXT", 1, 0)],
    "SchemaMigrations": [("migration", "TEXT", 1, 1)],
}
"""Name, type, not null, position in the primary key: as Nix 2.8 makes them."""


@pytest.fixture
def database(memory_path: Path) -> Iterator[Database]:
    with closing(Database(memory_path)) as database:
        yield database


def entry(name: str, *references: str) -> Registration:
    return Registration(
        path=store_path(name),
        nar_hash=sha256(name.encode()),
        nar_size=len(name),
        references=tuple(sorted(map(store_path, references))),
        registered=1,
    )


def register(database: Database, *batch: Registration) -> None:
    with database.writing():
        database.register(batch)


def paths(*names: str) -> list[StorePath]:
    return sorted(map(store_path, names))


def test_the_tables_are_those_of_nix(database: Database, memory_path: Path) -> None:
    with closing(sqlite3.connect(memory_path / "db.sqlite")) as raw:
        found = {
            table: [
                (name, kind.upper(), notnull, key)
                for _, name, kind, notnull, _, key in raw.execute(f"pragma table_info({table})")
            ]
            for table in SCHEMA
        }
        assert found == SCHEMA
        assert raw.execute("pragma journal_mode").fetchone() == ("wal",)
        actions = {(row[2], row[3], row[6]) for row in raw.execute("pragma foreign_key_list(Refs)")}
    assert actions == {
        ("ValidPaths", "referrer", "CASCADE"),
        ("ValidPaths", "reference", "RESTRICT"),
    }
    assert (memory_path / "schema").read_text() == "10"


def test_what_is_registered_is_found_again(database: Database) -> None:
    full = Registration(
        path=store_path("full"),
        nar_hash=sha256(b"nar"),
        nar_size=2**40,
        references=tuple(paths("a", "full")),
        deriver=store_path("full.drv"),
        signatures=(KEY.sign(b"one"),),
        ca=ContentAddress.parse(f"fixed:r:{sha256(b'')}"),
        registered=12345,
        ultimate=True,
    )
    register(database, entry("a"), full)
    assert database.get(full.path) == full
    assert database.get(store_path("a")) == entry("a")
    assert database.get(store_path("none")) is None
    assert database.all_valid() == paths("a", "full")


def test_references_may_come_later_in_the_batch(database: Database) -> None:
    register(database, entry("top", "below"), entry("below"))
    found = database.get(store_path("top"))
    assert found is not None
    assert found.references == (store_path("below"),)


def test_valid_looks_at_thousands(database: Database) -> None:
    names = [f"path-{number}" for number in range(2345)]
    register(database, *map(entry, names[::2]))
    assert database.valid(paths(*names)) == set(paths(*names[::2]))
    assert database.valid([]) == set()


def test_by_hash_part(database: Database) -> None:
    register(database, entry("a"), entry("b"))
    assert database.by_hash_part(store_path("a").hash_part) == store_path("a")
    for other in (store_path("c").hash_part, "0" * 32, "z" * 32, store_path("a").hash_part[:31]):
        assert database.by_hash_part(other) is None


def test_registering_twice_keeps_the_first(database: Database) -> None:
    register(database, entry("a"))
    with database.writing():
        database.register([Registration(path=store_path("a"), nar_hash=sha256(b""), nar_size=1)])
    assert database.get(store_path("a")) == entry("a")


def test_add_signatures(database: Database) -> None:
    register(database, entry("a"), entry("b"))
    one, two = KEY.sign(b"one"), KEY.sign(b"two")
    with database.writing():
        assert database.add_signatures(store_path("a"), [one])
        assert database.add_signatures(store_path("a"), [two, one])
        assert not database.add_signatures(store_path("a"), [one, two])
        assert not database.add_signatures(store_path("a"), [])
        assert not database.add_signatures(store_path("none"), [one])
    found = database.get(store_path("a"))
    assert found is not None
    assert set(found.signatures) == {one, two}
    assert database.get(store_path("b")) == entry("b")


def test_leaving_by_an_exception_undoes_everything(database: Database) -> None:
    with pytest.raises(KeyboardInterrupt), database.writing():  # noqa: PT012 - raised last
        database.register([entry("a")])
        assert database.valid([store_path("a")])
        raise KeyboardInterrupt
    assert database.all_valid() == []
    register(database, entry("b"))
    assert database.all_valid() == paths("b")


def test_a_failed_statement_undoes_everything(database: Database) -> None:
    broken = Registration(path=store_path("b"), nar_hash=sha256(b""), nar_size=2**70)
    with pytest.raises(OverflowError), database.writing():
        database.register([entry("a"), broken])
    assert database.all_valid() == []


def test_others_see_it_whole_or_not_at_all(database: Database, memory_path: Path) -> None:
    with closing(Database(memory_path)) as other:
        with database.writing():
            database.register([entry("a"), entry("b", "a")])
            assert other.all_valid() == []
        assert other.all_valid() == paths("a", "b")


def test_threads_take_turns(database: Database) -> None:
    def work(number: int) -> None:
        for round_ in range(10):
            register(database, entry(f"{number}-{round_}"))
            database.all_valid()

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(database.all_valid()) == 40


def test_outputs_of_derivations(database: Database, memory_path: Path) -> None:
    drv = Registration(
        path=store_path("a.drv"),
        nar_hash=sha256(b""),
        nar_size=1,
        outputs=(("out", store_path("a")), ("dev", store_path("a-dev"))),
    )
    register(database, drv)
    register(database, drv)
    with closing(sqlite3.connect(memory_path / "db.sqlite")) as raw:
        rows = raw.execute("select id, path from DerivationOutputs order by id").fetchall()
    assert rows == [("dev", str(store_path("a-dev"))), ("out", str(store_path("a")))]


def test_deleting_as_nix_does_keeps_references_whole(database: Database, memory_path: Path) -> None:
    register(database, entry("below", "below"), entry("top", "below", "top"))
    with closing(sqlite3.connect(memory_path / "db.sqlite", isolation_level=None)) as raw:
        raw.execute("pragma foreign_keys = on")
        delete = "delete from ValidPaths where path = ?"
        with pytest.raises(sqlite3.IntegrityError):
            raw.execute(delete, [str(store_path("below"))])
        raw.execute(delete, [str(store_path("top"))])
        raw.execute(delete, [str(store_path("below"))])
        assert raw.execute("select count(*) from Refs").fetchone() == (0,)


def test_what_is_there_is_opened_and_not_made_again(memory_path: Path) -> None:
    with closing(Database(memory_path)) as database:
        register(database, entry("a"))
    (memory_path / "schema").unlink()
    with closing(Database(memory_path)) as database:
        assert database.all_valid() == paths("a")
    assert (memory_path / "schema").read_text() == "10"
    assert entries(memory_path) == ["db.sqlite", "schema"]


def test_reading_only(memory_path: Path) -> None:
    with closing(Database(memory_path)) as database:
        register(database, entry("a"))
    before = {name: (memory_path / name).read_bytes() for name in entries(memory_path)}
    with closing(Database(memory_path, read_only=True)) as database:
        assert database.all_valid() == paths("a")
        with pytest.raises(DatabaseError) as caught:
            register(database, entry("b"))
        assert caught.value.hint == "choose a store that you may write to with --store"
    assert {name: (memory_path / name).read_bytes() for name in before} == before


def test_reading_only_while_another_writes(database: Database, memory_path: Path) -> None:
    with closing(Database(memory_path, read_only=True)) as reader:
        register(database, entry("a"))
        assert reader.all_valid() == paths("a")


def test_reading_only_makes_nothing(memory_path: Path) -> None:
    with pytest.raises(DatabaseError):
        Database(memory_path, read_only=True)
    assert entries(memory_path) == []


def test_a_read_only_directory_of_an_ordinary_user() -> None:
    code = """
import sys
from contextlib import closing
from pathlib import Path
from nixfetch.store.database import Database, DatabaseError
from unit.store.disk_trees import become_nobody
from unit.store.test_database import entry, register
place = Path(sys.argv[1])
become_nobody()
with closing(Database(place)) as database:
    register(database, entry("a"))
place.chmod(0o555)
with closing(Database(place, read_only=True)) as database:
    print(len(database.all_valid()))
for path in (place / "schema", place / "db.sqlite"):
    path.chmod(0o444)
try:
    with closing(Database(place)) as database:
        register(database, entry("b"))
except DatabaseError as error:
    print(error.hint)
(place / "schema").chmod(0)
try:
    Database(place)
except DatabaseError as error:
    print(error.facts["reason"])
"""
    with place_of_nobody() as place:
        assert python(code, place).splitlines() == [
            "1",
            "choose a store that you may write to with --store",
            "Permission denied",
        ]


@pytest.mark.parametrize("read_only", [False, True])
def test_garbage_is_no_database(memory_path: Path, *, read_only: bool) -> None:
    (memory_path / "db.sqlite").write_bytes(b"garbage" * 1000)
    with (
        pytest.raises(DatabaseError) as caught,
        closing(Database(memory_path, read_only=read_only)) as database,
    ):
        database.all_valid()
    assert caught.value.hint == REBUILD
    assert caught.value.problem == "the store's database is damaged"
    assert caught.value.facts["file"] == str(memory_path / "db.sqlite")
    assert caught.value.exit_code == 6


def test_a_name_of_a_table_that_is_no_text(memory_path: Path) -> None:
    # SQLite's message quotes it, and Python cannot read the message.
    Database(memory_path).close()
    file = memory_path / "db.sqlite"
    content = file.read_bytes()
    assert b"ValidPaths" in content
    file.write_bytes(content.replace(b"ValidPaths", b"ValidPath\x80"))
    with pytest.raises(DatabaseError) as caught, closing(Database(memory_path)) as database:
        database.all_valid()
    assert "the store's database" in caught.value.problem


@pytest.mark.parametrize("version", ["11", "9", "garbage", "1" * 100])
def test_another_schema_is_refused(memory_path: Path, version: str) -> None:
    (memory_path / "schema").write_text(version)
    with pytest.raises(SchemaError) as caught:
        Database(memory_path)
    assert caught.value.facts["version"] == version[:20]
    assert (caught.value.hint == REBUILD) == (version == "garbage")
    assert entries(memory_path) == ["schema"]


def test_an_empty_schema_of_a_full_disk_is_written_again(memory_path: Path) -> None:
    (memory_path / "schema").write_text("")
    Database(memory_path).close()
    assert (memory_path / "schema").read_text() == "10"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("hash", "sha256:short"),
        ("deriver", "nonsense"),
        ("sigs", "nonsense"),
        ("ca", "nonsense"),
        ("path", "/elsewhere/x"),
    ],
)
def test_a_nonsensical_row_is_a_store_error(
    database: Database, memory_path: Path, column: str, value: str
) -> None:
    register(database, entry("below"), entry("top", "below"))
    where = "below" if column == "path" else "top"
    with closing(sqlite3.connect(memory_path / "db.sqlite", isolation_level=None)) as raw:
        raw.execute(
            f"update ValidPaths set {column} = ? where path = ?", [value, str(store_path(where))]
        )
    with pytest.raises(StoreError, match="nonsense"):
        database.get(store_path("top"))
    if column == "path":  # one odd row hides no other
        assert database.all_valid() == [store_path("top")]


def test_values_that_are_missing_are_named_plainly(database: Database, memory_path: Path) -> None:
    register(database, entry("below"), entry("top", "below"))
    with closing(sqlite3.connect(memory_path / "db.sqlite", isolation_level=None)) as raw:
        raw.executescript(
            "pragma writable_schema = on;"
            "update sqlite_master set sql = replace(sql, 'text unique not null', 'text unique');"
        )
    with closing(sqlite3.connect(memory_path / "db.sqlite", isolation_level=None)) as raw:
        raw.execute("update ValidPaths set path = null where path = ?", [str(store_path("below"))])
    ways: list[Callable[[], object]] = [
        database.all_valid,
        database.nodes,
        lambda: database.get(store_path("top")),
        lambda: database.closure([store_path("top")]),
    ]
    for way in ways:
        with pytest.raises(DatabaseError, match="nonsense") as caught:
            way()
        assert caught.value.facts["reason"] == (
            "a value is missing, or of another type than its column"
        )
    with closing(sqlite3.connect(memory_path / "db.sqlite", isolation_level=None)) as raw:
        raw.execute("delete from ValidPaths where path is null")
    with pytest.raises(DatabaseError, match="nonsense") as caught:
        database.nodes()
    assert caught.value.facts["reason"] == "a reference of or to a path that is not there"


def test_a_directory_that_is_missing(memory_path: Path) -> None:
    with pytest.raises(DatabaseError) as caught:
        Database(memory_path / "none")
    assert caught.value.hint == "choose a store that you may write to with --store"
