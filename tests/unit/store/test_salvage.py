from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from nixfetch.store.database import Database, Registration
from nixfetch.store.salvage import salvage
from simulated_cache import store_path
from unit.store.test_database import entry, register

if TYPE_CHECKING:
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath

PAGE = 4096  # bytes
COUNT = 300


@pytest.fixture
def file(memory_path: Path) -> Path:
    with closing(Database(memory_path)) as database:
        names = [f"path-{number}" for number in range(COUNT)]
        register(
            database, *(entry(name, *names[max(0, n - 3) : n]) for n, name in enumerate(names))
        )
    return memory_path / "db.sqlite"


def whole(file: Path) -> dict[StorePath, Registration]:
    with closing(Database(file.parent, read_only=True)) as database:
        entries = [database.get(path) for path in database.all_valid()]
    return {one.path: one for one in entries if one is not None}


def execute(file: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(statement, values)
        connection.commit()
        connection.execute("pragma wal_checkpoint(truncate)")


def zero(file: Path, *pages: int) -> None:
    with file.open("r+b") as raw:
        for page in pages:
            raw.seek((page - 1) * PAGE)
            raw.write(bytes(PAGE))


def leaves(file: Path, table: str) -> list[int]:
    """Pages of a table's or an index's rows; a small B-tree has them below its root."""
    with closing(sqlite3.connect(file)) as connection:
        statement = "select rootpage from sqlite_master where name = ?"
        ((root,),) = connection.execute(statement, [table]).fetchall()
    data = file.read_bytes()
    page = data[(root - 1) * PAGE : root * PAGE]
    count = int.from_bytes(page[3:5], "big")
    cells = [int.from_bytes(page[12 + 2 * n : 14 + 2 * n], "big") for n in range(count)]
    return [int.from_bytes(page[cell : cell + 4], "big") for cell in cells]


def test_a_whole_one(file: Path) -> None:
    expected = whole(file)
    assert len(expected) == COUNT
    assert salvage(file) == (expected, 0)


def test_a_damaged_page_of_rows_costs_its_rows(file: Path) -> None:
    expected = whole(file)
    zero(file, leaves(file, "ValidPaths")[1])
    found = salvage(file).claims
    assert COUNT / 2 < len(found) < COUNT
    for path, one in found.items():
        # References to what was lost are lost: whoever checks signatures finds it.
        assert set(one.references) <= set(expected[path].references)
        assert (one.nar_hash, one.signatures) == (
            expected[path].nar_hash,
            expected[path].signatures,
        )


def test_damaged_references_cost_the_path(file: Path) -> None:
    expected = whole(file)
    zero(file, *leaves(file, "sqlite_autoindex_Refs_1"))
    found = salvage(file).claims
    assert len(found) < COUNT
    assert all(one.references == expected[path].references for path, one in found.items())


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("hash", "sha256:short"),
        ("hash", 7),
        ("registrationTime", "never"),
        ("narSize", "large"),
        ("deriver", b"\xff\xfe"),
        ("sigs", "nonsense"),
        ("ca", "nonsense"),
        ("path", "/elsewhere/x"),
    ],
)
def test_a_row_that_makes_no_sense_costs_itself(file: Path, column: str, value: object) -> None:
    execute(file, f"update ValidPaths set {column} = ? where id = {COUNT}", value)
    assert len(salvage(file).claims) == COUNT - 1


def test_a_reference_to_a_name_that_only_nix_knows(file: Path) -> None:
    odd = f"/nix/store/{'0' * 32}-.odd"
    execute(file, "update ValidPaths set path = ? where id = 100", f"{odd}..x/y")
    found = salvage(file)
    assert (len(found.claims), found.odd) == (COUNT - 4, 3)


def test_text_that_is_none(file: Path) -> None:
    execute(file, "update ValidPaths set sigs = cast(x'ff41' as text) where id = 7")
    assert store_path("path-6") not in salvage(file).claims


def test_numbers_that_are_not_said(file: Path) -> None:
    zero(file, *leaves(file, "ValidPaths")[:1])
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("delete from sqlite_sequence")
        connection.commit()
    assert len(salvage(file, at_least=1000).claims) > COUNT / 2


def test_absurd_numbers_are_not_counted_to(file: Path) -> None:
    execute(file, "update sqlite_sequence set seq = 1 << 60")
    execute(file, "delete from ValidPaths where id > 5")
    execute(file, "drop table ValidPaths")
    assert salvage(file) == ({}, 0)


@pytest.mark.parametrize("data", [b"", b"garbage", b"garbage" * 1000])
def test_what_is_no_database(memory_path: Path, data: bytes) -> None:
    (memory_path / "old").write_bytes(data)
    assert salvage(memory_path / "old", at_least=10) == ({}, 0)


def test_nothing_at_all(memory_path: Path) -> None:
    assert salvage(memory_path / "none/at/all", at_least=10) == ({}, 0)
