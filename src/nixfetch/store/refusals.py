"""What SQLite refuses, and what we refuse in its place, as errors of ours."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, NoReturn

from nixfetch.errors import FormatError, StoreError
from nixfetch.formats.storepath import StorePath
from nixfetch.store.disk import disk_errors
from nixfetch.store.journal import is_staging_name
from nixfetch.store.locks import LOCK_SUFFIX

if TYPE_CHECKING:
    from pathlib import Path

REBUILD = "the paths may well be whole: `nixfetch verify --rebuild-db` makes a database from them"
_SHARED = 32 * 1024  # bytes; a part of the -shm file, which SQLite lays out


class DatabaseError(StoreError):
    """SQLite refused. Carries `file` and `reason`."""


class MissingDatabaseError(DatabaseError):
    """There are paths, and no database that names them: an empty one would make them garbage."""


class UnmadeDatabaseError(DatabaseError):
    """There are no paths, and the database that was to name them was never made to its end."""


def refuse_to_forget(store: Path, file: Path) -> None:
    """Have no empty database begin where paths are: a collector would delete all of them.

    Raises:
        MissingDatabaseError: there are paths in the directory `store`.
        DiskError: it cannot be read.
    """
    if holds_paths(store):
        raise MissingDatabaseError(
            "the store has paths, but its database is missing or empty",
            hint=REBUILD,
            file=str(file),
        )


def refuse_to_read(file: Path) -> NoReturn:
    """Have nobody read a database without tables.

    Raises:
        UnmadeDatabaseError: always.
    """
    raise UnmadeDatabaseError(
        "there is no store here yet: its database was not finished",
        hint="`nixfetch fetch` makes it, on a disk with room for it",
        file=str(file),
    )


def holds_paths(store: Path) -> bool:
    """Whether the directory `store` has something that may be a path of a store.

    Raises:
        DiskError: it cannot be read.
    """
    with disk_errors(store):
        try:
            names = os.scandir(store)
        except FileNotFoundError:
            return False
        with names:
            return any(map(_may_be_path, (entry.name for entry in names)))


def _may_be_path(name: str) -> bool:
    if name.endswith(LOCK_SUFFIX) or is_staging_name(name):
        return False
    try:
        StorePath.parse(name)
    except FormatError:
        return False
    return True


def refused(error: sqlite3.Error, file: Path) -> DatabaseError:
    """`error` as one of ours, about the database `file`."""
    code = _code(error)
    if code == sqlite3.SQLITE_IOERR and _is_full(file):
        code = sqlite3.SQLITE_FULL
    return DatabaseError(_problem(code), hint=_hint(code), file=str(file), reason=str(error))


def _is_full(file: Path) -> bool:
    """Whether there is no room for what SQLite shares with other processes."""
    try:
        disk = os.statvfs(file.parent)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < _SHARED


def _problem(code: int) -> str:
    match code:
        case sqlite3.SQLITE_FULL:
            return "no space left on device"
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return "the store's database is damaged"
        case _:
            return "the store's database refused"


def _code(error: sqlite3.Error) -> int:
    # The low byte is what went wrong, the others are where: READONLY_DIRECTORY is READONLY too.
    # Text that is no UTF-8 is found by Python, which gives no code.
    unreadable = sqlite3.SQLITE_CORRUPT if isinstance(error, sqlite3.OperationalError) else 0
    return getattr(error, "sqlite_errorcode", unreadable) & 0xFF


def _hint(code: int) -> str | None:
    match code:
        case sqlite3.SQLITE_FULL:
            return "free some space, or choose another disk with --store"
        case sqlite3.SQLITE_IOERR:
            return "the disk is full or failing: free some space, or choose another with --store"
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return "choose a store that you may write to with --store"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return "another process is writing to this store; try again when it is done"
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_ERROR:  # no such table
            return REBUILD
        case _:
            return None
