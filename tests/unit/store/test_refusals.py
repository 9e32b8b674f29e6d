from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from nixfetch.store.disk import DiskError
from nixfetch.store.refusals import (
    REBUILD,
    MissingDatabaseError,
    holds_paths,
    refuse_to_forget,
    refused,
)
from simulated_cache import store_path

if TYPE_CHECKING:
    from pathlib import Path


class Coded(sqlite3.OperationalError):
    """As SQLite raises them; only it can set the code of its own."""

    def __init__(self, code: int) -> None:
        super().__init__("reason")
        self.sqlite_errorcode = code


@pytest.mark.parametrize(
    ("code", "problem", "hint"),
    [
        (sqlite3.SQLITE_FULL, "no space left on device", "free some space"),
        (sqlite3.SQLITE_IOERR_SHMSIZE, "refused", "the disk is full or failing"),
        (sqlite3.SQLITE_READONLY_DIRECTORY, "refused", "a store that you may write to"),
        (sqlite3.SQLITE_CANTOPEN, "refused", "a store that you may write to"),
        (sqlite3.SQLITE_BUSY, "refused", "another process is writing"),
        (sqlite3.SQLITE_CORRUPT_INDEX, "damaged", REBUILD),
        (sqlite3.SQLITE_NOTADB, "damaged", REBUILD),
        (sqlite3.SQLITE_ERROR, "refused", REBUILD),
        (sqlite3.SQLITE_TOOBIG, "refused", None),
    ],
)
def test_what_sqlite_says(tmp_path: Path, code: int, problem: str, hint: str | None) -> None:
    error = refused(Coded(code), tmp_path)
    assert problem in error.problem
    assert (error.hint is None) == (hint is None)
    assert hint is None or hint in (error.hint or "")
    assert error.facts == {"file": str(tmp_path), "reason": "reason"}


def test_what_python_says_of_it(tmp_path: Path) -> None:
    """Text that is no UTF-8 has no code."""
    assert refused(sqlite3.OperationalError("could not decode"), tmp_path).hint == REBUILD
    assert refused(sqlite3.ProgrammingError("closed"), tmp_path).hint is None


def test_what_may_be_a_path(tmp_path: Path) -> None:
    path = store_path("hello")
    assert not holds_paths(tmp_path / "none")
    for name in (".links", "tmp-1-2", f"{path.base}.lock", f"{path.hash_part}-nixfetch.{'0' * 16}"):
        (tmp_path / name).mkdir()
    assert not holds_paths(tmp_path)
    refuse_to_forget(tmp_path, tmp_path / "db.sqlite")
    (tmp_path / path.base).write_bytes(b"")
    assert holds_paths(tmp_path)
    with pytest.raises(MissingDatabaseError):
        refuse_to_forget(tmp_path, tmp_path / "db.sqlite")
    with pytest.raises(DiskError):
        holds_paths(tmp_path / path.base)
