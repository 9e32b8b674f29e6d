from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from nixfetch.formats.hashes import sha256
from nixfetch.store.database import Database, DatabaseError, Registration
from simulated_cache import store_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(tmp_path, durable=False)) as database:
        yield database


def register(database: Database, references: dict[str, list[str]]) -> None:
    with database.writing():
        database.register(
            Registration(
                path=store_path(name),
                nar_hash=sha256(b""),
                nar_size=1,
                references=tuple(sorted(map(store_path, others))),
            )
            for name, others in references.items()
        )


def closure(database: Database, *names: str) -> dict[str, set[str]]:
    found = database.closure(list(map(store_path, names)))
    return {path.name: {other.name for other in others} for path, others in found.items()}


def test_all_that_is_reached_and_nothing_else(database: Database) -> None:
    register(
        database,
        {"libc": ["libc"], "lib": ["libc"], "app": ["lib", "libc"], "tool": ["lib"], "alone": []},
    )
    assert closure(database, "app") == {"app": {"lib", "libc"}, "lib": {"libc"}, "libc": {"libc"}}
    assert set(closure(database, "tool", "alone")) == {"tool", "lib", "libc", "alone"}
    assert closure(database) == {}


def test_what_is_not_valid_is_left_out(database: Database) -> None:
    register(database, {"a": []})
    assert closure(database, "a", "nobody") == {"a": set()}
    assert closure(database, "nobody") == {}


def test_references_ascend(database: Database) -> None:
    names = [f"n{number}" for number in range(20)]
    register(database, {**{name: [] for name in names}, "top": names})
    top: StorePath = store_path("top")
    assert database.closure([top])[top] == tuple(sorted(map(store_path, names)))


def test_a_circle_ends(database: Database) -> None:
    register(database, {"a": ["b"], "b": ["a"]})
    assert closure(database, "a") == {"a": {"b"}, "b": {"a"}}


def test_more_paths_than_a_statement_takes(database: Database) -> None:
    names = [f"p{number}" for number in range(1234)]
    register(database, {"base": [], **{name: ["base"] for name in names}})
    register(database, {"top": names})
    assert len(closure(database, "top")) == 1236
    assert len(closure(database, *names)) == 1235


def test_a_reference_to_no_path_is_said(database: Database, tmp_path: Path) -> None:
    register(database, {"a": [], "b": ["a"]})
    with closing(sqlite3.connect(tmp_path / "db.sqlite")) as raw:
        raw.execute("pragma foreign_keys = off")
        raw.execute("delete from ValidPaths where path like '%-a'")
        raw.commit()
    with pytest.raises(DatabaseError, match="holds nonsense"):
        database.closure([store_path("b")])
