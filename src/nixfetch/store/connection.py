"""The file of a store's database: opened, made, shared with Nix, locked for writers.

WAL, synchronous=FULL: a transaction that was committed is there after a power cut. Nix may read
and write meanwhile. Knows the schema, and nothing of what is in the rows.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

from nixfetch.errors import FormatError
from nixfetch.store.disk import disk_errors
from nixfetch.store.refusals import (
    REBUILD,
    DatabaseError,
    refuse_to_forget,
    refuse_to_read,
    refused,
)
from nixfetch.store.schema import SCHEMA, check_schema, write_schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

_BUSY = 60.0  # seconds to wait for another writer; Nix waits for ever


class Connection:
    """One connection, shared by threads under a lock."""

    def __init__(
        self,
        directory: Path,
        *,
        read_only: bool = False,
        durable: bool = True,
        store: Path | None = None,
    ) -> None:
        """Open the database in `directory`; make it there when it is missing and may be made.

        Args:
            directory: where ``db.sqlite`` lies or is to lie.
            read_only: change nothing.
            durable: a transaction that was committed is there after a power cut.
            store: the directory of the paths: when it holds some, no empty database is made.

        Raises:
            DatabaseError: it cannot be opened or made.
            MissingDatabaseError: there are paths in `store`, and nothing that names them.
            UnmadeDatabaseError: neither, and `read_only`.
            SchemaError: it is of another version.
        """
        self.file = directory / "db.sqlite"
        self._durable = durable
        self._lock = threading.RLock()
        check_schema(directory)
        if store is not None and not _holds_anything(self.file):
            refuse_to_forget(store, self.file)
        with self.errors():
            self._connection = _connect(self.file, read_only=read_only)
        try:
            if store is not None and not self._has_tables():
                refuse_to_forget(store, self.file)
                if read_only:
                    refuse_to_read(self.file)
            if not read_only:
                self._prepare(directory)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    def execute(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Run a statement, inside `writing` or `reading`.

        Raises:
            DatabaseError: SQLite or the disk refused.
        """
        with self.errors():
            return self._connection.execute(statement, values)

    def execute_many(self, statement: str, values: Iterable[Sequence[object]]) -> None:
        """The same for each of `values`."""
        with self.errors():
            self._connection.executemany(statement, values)

    def query(self, statement: str, values: Sequence[object] = ()) -> list[tuple]:  # type: ignore[type-arg] # rows are as SQLite gives them
        """All rows of an answer."""
        with self._lock, self.errors():
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def sane(self) -> Iterator[None]:
        """What a row says badly is this machine's fault, not a cache's."""
        try:
            yield
        except FormatError as error:
            raise self._nonsense(str(error)) from error
        except (TypeError, AttributeError) as error:  # columns have no types
            raise self._nonsense(
                "a value is missing, or of another type than its column"
            ) from error
        except KeyError as error:
            raise self._nonsense("a reference of or to a path that is not there") from error

    def _nonsense(self, reason: str) -> DatabaseError:
        return DatabaseError(
            "the store's database holds nonsense", hint=REBUILD, file=str(self.file), reason=reason
        )

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what SQLite raises into a `DatabaseError`."""
        try:
            yield
        except sqlite3.Error as error:
            raise refused(error, self.file) from error
        except UnicodeDecodeError as error:  # the message quotes a name of a damaged schema
            damage = sqlite3.OperationalError("the names of its tables are damaged")
            raise refused(damage, self.file) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction: all other writers wait; leaving by an exception undoes it.

        Raises:
            DatabaseError: another writer did not end within a minute, or the disk refused.
        """
        with self._lock:
            with self.errors():
                self._connection.execute("begin immediate")
            try:
                yield
            except BaseException:
                self._roll_back()
                raise
            try:
                with self.errors():
                    self._connection.execute("commit")
            except BaseException:
                self._roll_back()
                raise

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One moment for several questions."""
        with self._lock, self.errors():
            self._connection.execute("begin")
            try:
                yield
            finally:
                self._connection.execute("commit")

    def _roll_back(self) -> None:
        # SQLite has rolled back by itself after some errors, a full disk for one.
        if self._connection.in_transaction:
            with self.errors():
                self._connection.execute("rollback")

    def _prepare(self, directory: Path) -> None:
        # One at a time: two that turn a new file into a WAL database do not wait for each
        # other, one is refused.
        with _locked(directory), self.errors():
            execute = self._connection.execute
            if execute("pragma journal_mode").fetchone() != ("wal",):
                execute("pragma journal_mode = wal")
            execute(f"pragma synchronous = {'full' if self._durable else 'normal'}")
            execute("pragma foreign_keys = on")
            if not execute(
                "select 1 from sqlite_master where name = 'SchemaMigrations'"
            ).fetchone():
                # One transaction: a crash or a full disk leaves no database without tables.
                self._connection.executescript(f"begin immediate; {SCHEMA} commit;")
                # While there is room for it: on a disk that is full later the log would stay.
                execute("pragma wal_checkpoint(truncate)")
            write_schema(directory)

    def _has_tables(self) -> bool:
        return bool(self.query("select 1 from sqlite_master where name = 'ValidPaths'"))


def _connect(file: Path, *, read_only: bool) -> sqlite3.Connection:
    mode = "rwc"
    if read_only:
        # Readers of a WAL database write shared memory beside it. Where they may not and no
        # writer left a log, the file alone is all there is.
        alone = not os.access(file.parent, os.W_OK) and not file.with_name("db.sqlite-wal").exists()
        mode = "ro&immutable=1" if alone else "ro"
    return sqlite3.connect(
        f"file:{quote(os.fsencode(file))}?mode={mode}",
        uri=True,
        timeout=_BUSY,
        isolation_level=None,
        check_same_thread=False,
    )


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the lock of the directory itself; nobody but us asks for that one."""
    with disk_errors(directory):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with disk_errors(directory):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _holds_anything(file: Path) -> bool:
    """Whether there is anything in it: SQLite takes an empty file for a new database."""
    with disk_errors(file):
        try:
            return file.stat().st_size > 0
        except FileNotFoundError:
            return False
