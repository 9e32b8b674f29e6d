"""The database of a store: which paths are valid, and what is known of each.

Nix's own schema, version 10, shared with Nix: it may read and write while we do. All writes of
a batch are one transaction, durable when it returns (WAL, synchronous=FULL).

Source: nix, src/libstore/schema.sql, src/libstore/local-store.cc.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from nixfetch.errors import FormatError, StoreError
from nixfetch.formats.contentaddress import ContentAddress
from nixfetch.formats.hashes import Hash
from nixfetch.formats.signing import Signature
from nixfetch.formats.storepath import StorePath
from nixfetch.store.disk import disk_errors

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

SCHEMA_VERSION = "10"
_BUSY = 60.0  # seconds to wait for another writer; Nix waits for ever
_VARIABLES = 500  # parameters a statement: below SQLite's oldest limit of 999
_SCHEMA = """
create table if not exists ValidPaths (
    id               integer primary key autoincrement not null,
    path             text unique not null,
    hash             text not null, -- base16 representation
    registrationTime integer not null,
    deriver          text,
    narSize          integer,
    ultimate         integer, -- null implies "false"
    sigs             text, -- space-separated
    ca               text -- if not null, an assertion that the path is content-addressed
);
create table if not exists Refs (
    referrer  integer not null,
    reference integer not null,
    primary key (referrer, reference),
    foreign key (referrer) references ValidPaths(id) on delete cascade,
    foreign key (reference) references ValidPaths(id) on delete restrict
);
create index if not exists IndexReferrer on Refs(referrer);
create index if not exists IndexReference on Refs(reference);
-- Paths can refer to themselves, causing a tuple (N, N) in the Refs table. This would
-- forbid to delete such a path, so the tuple goes first.
create trigger if not exists DeleteSelfRefs before delete on ValidPaths
  begin
    delete from Refs where referrer = old.id and reference = old.id;
  end;
create table if not exists DerivationOutputs (
    drv  integer not null,
    id   text not null, -- symbolic output id, usually "out"
    path text not null,
    primary key (drv, id),
    foreign key (drv) references ValidPaths(id) on delete cascade
);
create index if not exists IndexDerivationOutputs on DerivationOutputs(path);
create table if not exists SchemaMigrations (
    migration text primary key not null
);
"""


class DatabaseError(StoreError):
    """SQLite refused. Carries `file` and `reason`."""


class SchemaError(StoreError):
    """The database is of a version that we do not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What the database holds of one valid path. Sizes are bytes, times seconds since 1970."""

    path: StorePath
    nar_hash: Hash
    nar_size: int
    references: tuple[StorePath, ...] = ()
    """Ascending; may hold `path` itself."""
    deriver: StorePath | None = None
    signatures: tuple[Signature, ...] = ()
    ca: ContentAddress | None = None
    registered: int = 0
    ultimate: bool = False
    """Whether it was built here."""
    outputs: tuple[tuple[str, StorePath], ...] = ()
    """Of a derivation: its outputs by name. Written, not read."""


class Database:
    """One connection, shared by threads under a lock."""

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        """Open the database in `directory`; make it there when it is missing and may be made.

        Raises:
            DatabaseError: it cannot be opened or made.
            SchemaError: it is of another version.
        """
        self._file = directory / "db.sqlite"
        self._lock = threading.RLock()
        _check_schema(directory)
        with self._errors():
            self._connection = _connect(self._file, read_only=read_only)
        try:
            if not read_only:
                self._prepare(directory)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    def valid(self, paths: Collection[StorePath]) -> set[StorePath]:
        """Those of `paths` that are valid."""
        texts = list(map(str, paths))
        found: set[StorePath] = set()
        for start in range(0, len(texts), _VARIABLES):
            part = texts[start : start + _VARIABLES]
            marks = ",".join("?" * len(part))
            rows = self._query(f"select path from ValidPaths where path in ({marks})", part)  # noqa: S608 - only question marks are put in
            found.update(StorePath.parse_full(path) for (path,) in rows)
        return found

    def all_valid(self) -> list[StorePath]:
        """All valid paths, ascending."""
        rows = self._query("select path from ValidPaths order by path")
        with self._sane():
            return [StorePath.parse_full(path) for (path,) in rows]

    def get(self, path: StorePath) -> Registration | None:
        """What is known of `path`; None when it is not valid.

        Raises:
            DatabaseError: a row holds what no row should.
        """
        rows = self._query(
            "select id, hash, registrationTime, deriver, narSize, ultimate, sigs, ca"
            " from ValidPaths where path = ?",
            [str(path)],
        )
        for id_, hash_, time, deriver, size, ultimate, sigs, ca in rows:
            references = self._references(id_)
            with self._sane():
                return Registration(
                    path=path,
                    nar_hash=Hash.parse(hash_),
                    nar_size=size or 0,
                    references=references,
                    deriver=StorePath.parse_full(deriver) if deriver else None,
                    signatures=tuple(Signature.parse(text) for text in (sigs or "").split()),
                    ca=ContentAddress.parse(ca) if ca else None,
                    registered=time,
                    ultimate=bool(ultimate),
                )
        return None

    def by_hash_part(self, hash_part: str) -> StorePath | None:
        """The valid path with this hash part."""
        prefix = f"/nix/store/{hash_part}-"
        rows = self._query(
            "select path from ValidPaths where path >= ? order by path limit 1", [prefix]
        )
        for (path,) in rows:
            return StorePath.parse_full(path) if path.startswith(prefix) else None
        return None

    def register(self, batch: Iterable[Registration]) -> None:
        """Make all of `batch` valid in one transaction; those that are valid already stay.

        Call it inside `writing`. All references must be valid, or in the batch.
        """
        batch = list(batch)
        with self._errors():
            for entry in batch:
                self._connection.execute(
                    "insert or ignore into ValidPaths"
                    " (path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca)"
                    " values (?, ?, ?, ?, ?, ?, ?, ?)",
                    _row(entry),
                )
            for entry in batch:
                for reference in entry.references:
                    self._connection.execute(
                        "insert or replace into Refs (referrer, reference)"
                        " select r.id, e.id from ValidPaths r, ValidPaths e"
                        " where r.path = ? and e.path = ?",
                        [str(entry.path), str(reference)],
                    )
                for output, path in entry.outputs:
                    self._connection.execute(
                        "insert or replace into DerivationOutputs (drv, id, path)"
                        " select id, ?, ? from ValidPaths where path = ?",
                        [output, str(path), str(entry.path)],
                    )

    def set_signatures(self, path: StorePath, signatures: Iterable[Signature]) -> None:
        """Replace the signatures of a valid path. Call it inside `writing`."""
        with self._errors():
            self._connection.execute(
                "update ValidPaths set sigs = ? where path = ?",
                [" ".join(sorted(map(str, signatures))), str(path)],
            )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction: all other writers wait; leaving by an exception undoes it.

        Raises:
            DatabaseError: another writer did not end within a minute, or the disk refused.
        """
        with self._lock:
            with self._errors():
                self._connection.execute("begin immediate")
            try:
                yield
            except BaseException:
                self._roll_back()
                raise
            try:
                with self._errors():
                    self._connection.execute("commit")
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        # SQLite has rolled back by itself after some errors, a full disk for one.
        if self._connection.in_transaction:
            with self._errors():
                self._connection.execute("rollback")

    def _prepare(self, directory: Path) -> None:
        # One at a time: two that turn a new file into a WAL database do not wait for each
        # other, one is refused.
        with _locked(directory), self._errors():
            execute = self._connection.execute
            if execute("pragma journal_mode").fetchone() != ("wal",):
                execute("pragma journal_mode = wal")
            execute("pragma synchronous = full")
            execute("pragma foreign_keys = on")
            if not execute(
                "select 1 from sqlite_master where name = 'SchemaMigrations'"
            ).fetchone():
                # One transaction: a crash or a full disk leaves no database without tables.
                self._connection.executescript(f"begin immediate; {_SCHEMA} commit;")
            _write_schema(directory)

    def _references(self, id_: int) -> tuple[StorePath, ...]:
        rows = self._query(
            "select path from Refs join ValidPaths on reference = id where referrer = ?", [id_]
        )
        with self._sane():
            return tuple(sorted(StorePath.parse_full(path) for (path,) in rows))

    def _query(self, statement: str, values: list[str] | list[int] | None = None) -> list[tuple]:  # type: ignore[type-arg] # rows are as SQLite gives them
        with self._lock, self._errors():
            return self._connection.execute(statement, values or []).fetchall()

    @contextmanager
    def _sane(self) -> Iterator[None]:
        """What a row says badly is this machine's fault, not a cache's."""
        try:
            yield
        except FormatError as error:
            raise DatabaseError(
                "the store's database holds nonsense", file=str(self._file), reason=str(error)
            ) from error

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise DatabaseError(
                _problem(error),
                hint=_hint(error),
                file=str(self._file),
                reason=str(error),
            ) from error


def _row(entry: Registration) -> tuple[object, ...]:
    return (
        str(entry.path),
        f"{entry.nar_hash.algorithm}:{entry.nar_hash.hex}",
        entry.registered,
        str(entry.deriver) if entry.deriver else None,
        entry.nar_size,
        1 if entry.ultimate else None,
        " ".join(sorted(map(str, entry.signatures))) or None,
        str(entry.ca) if entry.ca else None,
    )


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


def _check_schema(directory: Path) -> None:
    try:
        version = (directory / "schema").read_text("ascii", "replace").strip()
    except FileNotFoundError:
        return
    except OSError as error:
        raise DatabaseError(
            "the store's database cannot be read", file=str(directory), reason=str(error.strerror)
        ) from error
    if version and version != SCHEMA_VERSION:
        raise SchemaError(
            "the store's database is of another version",
            hint="an older one: let Nix upgrade it; a newer one: upgrade nixfetch",
            file=str(directory / "schema"),
            version=version[:20],
            known=SCHEMA_VERSION,
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


def _write_schema(directory: Path) -> None:
    """Name the version, whole or not at all; after the tables, so that it never lies."""
    file = directory / "schema"
    try:
        if file.exists() and file.stat().st_size:
            return
        fresh = file.with_name(f"schema.{os.getpid()}")
        fresh.write_text(SCHEMA_VERSION)
        fresh.replace(file)
    except OSError as error:
        raise DatabaseError(
            "the store's database cannot be made", file=str(file), reason=str(error.strerror)
        ) from error


def _problem(error: sqlite3.Error) -> str:
    full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    return "no space left on device" if full else "the store's database refused"


def _hint(error: sqlite3.Error) -> str | None:
    # The low byte is what went wrong, the others are where: READONLY_DIRECTORY is READONLY too.
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_FULL:
            return "free some space, or choose another disk with --store"
        case sqlite3.SQLITE_IOERR:  # a full disk too, where shared memory is laid out
            return "the disk is full or failing: free some space, or choose another with --store"
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return "choose a store that you may write to with --store"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return "another process is writing to this store; try again when it is done"
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return "the database is damaged; the paths themselves may well be whole"
        case _:
            return None
