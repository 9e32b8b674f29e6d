"""The file that snapshots are kept in: SQLite, for one process.

One connection writes, behind a lock; readers take connections of their own, and wait for nobody
(WAL). Whatever SQLite complains of is a `DatabaseError`, at the statement that met it. Knows the
tables; knows nothing of what their rows mean.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from snapshotter.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

SCHEMA_VERSION = 1

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_PATIENCE = 10.0  # seconds; only a backup tool could hold the file
_CACHE = -256  # KiB of pages a connection; the whole file of 1000 snapshots is about 1 MiB
_IDLE_READERS = 8  # connections that are kept; more are made when more read at once

_SCHEMA = """
create table if not exists meta (key text primary key, value text not null) without rowid;
create table if not exists snapshots (
    id integer primary key autoincrement,
    name text not null unique,
    parent_id integer references snapshots (id),
    kind integer not null,
    ready integer not null default 0,
    unpacking integer not null,
    created_ns integer not null,
    updated_ns integer not null,
    size integer not null default 0,
    inodes integer not null default 0,
    farm text
);
create index if not exists children on snapshots (parent_id);
create table if not exists labels (
    snapshot_id integer not null references snapshots (id) on delete cascade,
    key text not null,
    value text not null,
    primary key (snapshot_id, key)
) without rowid;
create index if not exists refs on labels (value) where key = 'containerd.io/snapshot.ref';
create table if not exists nix_paths (
    snapshot_id integer not null references snapshots (id) on delete cascade,
    ord integer not null,
    path text not null,
    primary key (snapshot_id, ord)
) without rowid;
"""


class DatabaseError(InternalError):
    """The database cannot be used."""


class Connection:
    """One transaction's view of the tables; for one thread at a time."""

    def __init__(self, file: Path) -> None:
        """Open it.

        Args:
            file: of the database; made when it is missing.

        Raises:
            DatabaseError: it cannot be opened.
        """
        self._file = file
        with self._errors():
            # Nothing is undone or committed behind our back, and any thread may have its turn.
            self._db = sqlite3.connect(
                file, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
            )
        try:
            self.run("pragma foreign_keys = on")
            self.run(f"pragma cache_size = {_CACHE}")
        except BaseException:
            self.close()
            raise

    def rows(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        """All rows of a query.

        Raises:
            DatabaseError: SQLite cannot.
        """
        with self._errors():
            return self._db.execute(statement, values).fetchall()

    def row(self, statement: str, values: Sequence[object] = ()) -> Any:
        """The first row of a query; None when there is none."""
        return next(iter(self.rows(statement, values)), None)

    def run(self, statement: str, values: Sequence[object] = ()) -> int:
        """Change something; the id of the row that was inserted last."""
        with self._errors():
            return self._db.execute(statement, values).lastrowid or 0

    def run_many(self, statement: str, values: Iterable[Sequence[object]]) -> None:
        """Change something, once for each of `values`."""
        with self._errors():
            self._db.executemany(statement, values)

    def script(self, statements: str) -> None:
        """Run several statements."""
        with self._errors():
            self._db.executescript(statements)

    def undo(self) -> None:
        """End the transaction, if there is one, as if it had not been; never fails."""
        with suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("rollback")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """For a single call of SQLite."""
        try:
            yield
        except sqlite3.Error as error:
            raise DatabaseError(
                "database of snapshots cannot be used", file=self._file, reason=error
            ) from error


class Database:
    """Safe to share among threads."""

    def __init__(self, file: Path, *, durable: bool = True) -> None:
        """Open the database, or make it.

        Args:
            file: its directory is there.
            durable: whether what was written survives a power cut.

        Raises:
            DatabaseError: it is not a database of ours, or cannot be opened.
        """
        self._file, self._durable = file, durable
        self._lock = threading.Lock()  # of the writer; nothing else is locked inside
        self._idle: list[Connection] = []  # append and pop are atomic
        self._closed = False
        # SQLite would give it to whoever the umask lets. Never once there are connections:
        # closing any descriptor of the file gives up the locks of them all.
        with suppress(OSError):  # there it is; or SQLite says what is wrong
            os.close(os.open(file, _CREATE, 0o600))
        self._writer = Connection(file)
        try:
            self.instance = self._prepare()
        except BaseException:
            self._writer.close()
            raise

    def close(self) -> None:
        """Let go of the file; nobody may be in a call."""
        self._closed = True
        with self._lock:
            self._writer.close()
            while self._idle:
                self._idle.pop().close()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection of one's own, with one state of the database."""
        try:
            db = self._idle.pop()
        except IndexError:
            db = Connection(self._file)
        keep = False
        try:
            db.run("begin")
            yield db
            db.run("commit")
            keep = len(self._idle) < _IDLE_READERS and not self._closed
        finally:
            if keep:
                self._idle.append(db)
            else:
                db.close()

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Connection]:
        """A transaction; leaving by an exception undoes it.

        Args:
            durable: whether it must survive a power cut, where anything does.
        """
        with self._lock:
            db = self._writer
            db.run(f"pragma synchronous = {'full' if durable and self._durable else 'normal'}")
            db.run("begin immediate")
            try:
                yield db
                db.run("commit")
            except BaseException:
                db.undo()
                raise

    def _prepare(self) -> str:
        db = self._writer
        db.rows("pragma journal_mode = wal")
        (version,) = db.row("pragma user_version")
        if version not in (0, SCHEMA_VERSION):
            raise DatabaseError(
                "database of snapshots is of another version of this program",
                file=self._file,
                version=version,
                known=SCHEMA_VERSION,
            )
        db.script(f"begin immediate; {_SCHEMA} pragma user_version = {SCHEMA_VERSION}")
        db.run("insert or ignore into meta values ('instance', ?)", [secrets.token_hex(4)])
        db.run("commit")
        (instance,) = db.row("select value from meta where key = 'instance'")
        return str(instance)
