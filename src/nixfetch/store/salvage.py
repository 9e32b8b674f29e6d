"""What can still be read of a damaged database. Believes none of it: whoever asks checks it.

Works on a copy that is its own to change: SQLite may have to replay a log before it can read.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from nixfetch.errors import FormatError
from nixfetch.formats.contentaddress import ContentAddress
from nixfetch.formats.hashes import Hash
from nixfetch.formats.signing import Signature
from nixfetch.formats.storepath import StorePath, StorePathError
from nixfetch.store.database import Registration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_log = logging.getLogger(__name__)
_BATCH = 256  # rows asked for at a time; where a page is damaged, one at a time
_MOST = 10_000_000  # highest row number looked for; a damaged one may say anything
_NONSENSE = (FormatError, TypeError, AttributeError, ValueError, sqlite3.Error)
"""What a row that makes no sense raises: columns have no types."""
_COLUMNS = "id, path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca"


class Salvaged(NamedTuple):
    """What was read of a database."""

    claims: dict[StorePath, Registration]
    """Rows that make sense."""
    odd: int
    """Rows that make sense to Nix alone: they refer to a name that only old ones allowed."""


def salvage(copy: Path, *, at_least: int = 0) -> Salvaged:
    """Read the database `copy` as far as it can be read.

    Args:
        copy: a database, damaged or not, or no database at all.
        at_least: rows there may be, when the database does not say.
    """
    found: dict[StorePath, Registration] = {}
    odd = 0
    try:
        with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
            connection.text_factory = lambda data: data.decode("utf-8", "replace")
            for row in _rows(connection, at_least):
                try:
                    entry = _registration(row)
                    references = _references(connection, row[0])
                except _NONSENSE as error:
                    _log.info("row %s of the old database makes no sense: %s", row[0], error)
                    continue
                if references is None:
                    odd += 1
                else:
                    found[entry.path] = replace(entry, references=references)
    except sqlite3.Error as error:
        _log.info("cannot read %s any further: %s", copy, error)
    return Salvaged(found, odd)


def _rows(connection: sqlite3.Connection, at_least: int) -> Iterator[tuple[Any, ...]]:
    for start in range(1, _highest(connection, at_least) + 1, _BATCH):
        stop = start + _BATCH
        try:
            yield from _between(connection, start, stop)
        except sqlite3.Error:
            for number in range(start, stop):
                with suppress(sqlite3.Error):
                    yield from _between(connection, number, number + 1)


def _between(connection: sqlite3.Connection, start: int, stop: int) -> list[tuple[Any, ...]]:
    statement = f"select {_COLUMNS} from ValidPaths where id >= ? and id < ?"  # noqa: S608 - ours
    return connection.execute(statement, [start, stop]).fetchall()


def _highest(connection: sqlite3.Connection, at_least: int) -> int:
    """The highest row number that there may be."""
    numbers = [at_least]
    for statement in (
        "select max(id) from ValidPaths",
        "select seq from sqlite_sequence where name = 'ValidPaths'",
    ):
        with suppress(sqlite3.Error):
            rows = connection.execute(statement).fetchall()
            numbers += [number for (number,) in rows if isinstance(number, int)]
    return min(max(numbers), _MOST)


def _registration(row: tuple[Any, ...]) -> Registration:
    _, path, hash_, time, deriver, size, ultimate, sigs, ca = row
    return Registration(
        path=StorePath.parse_full(path),
        nar_hash=Hash.parse(hash_),
        nar_size=int(size or 0),
        deriver=StorePath.parse_full(deriver) if deriver else None,
        signatures=tuple(Signature.parse(text) for text in (sigs or "").split()),
        ca=ContentAddress.parse(ca) if ca else None,
        registered=int(time),
        ultimate=bool(ultimate),
    )


def _references(connection: sqlite3.Connection, id_: int) -> tuple[StorePath, ...] | None:
    """What a row refers to; None when one has no name that is allowed."""
    rows = connection.execute(
        "select path from Refs join ValidPaths on reference = id where referrer = ?", [id_]
    )
    try:
        return tuple(sorted(StorePath.parse_full(text) for (text,) in rows))
    except StorePathError:
        return None
