from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import grpc
import pytest

from snapshotter.database import Database, DatabaseError
from snapshotter.grpc_errors import status_of

if TYPE_CHECKING:
    from pathlib import Path


def write(database: Database, then: str | None) -> None:
    """Insert a row, and fail."""
    with database.writing() as db:
        db.run("insert into meta values ('a', 'b')")
        if then is None:
            raise ZeroDivisionError
        db.run(then)


def test_what_fails_is_undone_and_named(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "db")) as database:
        with pytest.raises(DatabaseError) as caught:
            write(database, "insert into nowhere values (1)")
        assert caught.value.facts["file"] == tmp_path / "db"
        with pytest.raises(ZeroDivisionError):
            write(database, None)
        with database.reading() as db:
            assert db.row("select count(*) from meta") == (1,)
        with pytest.raises(DatabaseError), database.reading() as db:
            db.rows("select nothing from nowhere")
        with database.reading() as db:
            assert db.rows("select 1") == [(1,)]


def test_readers_wait_for_no_writer(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "db")) as database, database.writing() as writer:
        writer.run("insert into meta values ('a', 'b')")
        with database.reading() as reader:
            assert reader.row("select count(*) from meta") == (1,)


def test_a_full_disk_is_told_apart(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "db")) as database:
        with database.writing() as db:
            (pages,) = db.row("pragma page_count")
        database._writer.rows(f"pragma max_page_count = {pages}")
        with pytest.raises(DatabaseError) as caught, database.writing() as db:
            db.run("insert into meta values ('a', ?)", ["x" * 100_000])
    assert status_of(caught.value) is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError):
        Database(tmp_path / "missing/db")
    (tmp_path / "directory").mkdir()
    with pytest.raises(DatabaseError):
        Database(tmp_path / "directory")


@pytest.mark.parametrize(("durable", "expected"), [(True, [2, 1]), (False, [1, 1])])
def test_what_is_flushed(tmp_path: Path, durable: bool, expected: list[int]) -> None:
    found = []
    with closing(Database(tmp_path / "db", durable=durable)) as database:
        for wanted in (True, False):
            with database.writing(durable=wanted) as db:
                (level,) = db.row("pragma synchronous")
                found.append(level)
    assert found == expected  # 2: each commit; 1: at checkpoints


def test_other_programs_may_look(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "db")) as database:
        with closing(sqlite3.connect(f"file:{tmp_path}/db?mode=ro", uri=True)) as other:
            assert other.execute("pragma journal_mode").fetchone() == ("wal",)
        assert len(database.instance) == 8
