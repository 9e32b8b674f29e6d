"""The database of a store: which paths are valid, and what is known of each.

Nix's own schema, version 10, shared with Nix: it may read and write while we do. All writes of
a batch are one transaction, durable when it returns (WAL, synchronous=FULL).

Source: nix, src/libstore/schema.sql, src/libstore/local-store.cc.
"""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nixfetch.errors import FormatError, StoreError
from nixfetch.formats.contentaddress import ContentAddress
from nixfetch.formats.hashes import Hash
from nixfetch.formats.signing import Signature
from nixfetch.formats.storepath import STORE_DIR, StorePath
from nixfetch.plan.liveness import Node
from nixfetch.store.connection import Connection
from nixfetch.store.refusals import REBUILD, DatabaseError, MissingDatabaseError
from nixfetch.store.schema import SCHEMA_VERSION, SchemaError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

_log = logging.getLogger(__name__)
_REFERRERS = "select referrer from Refs where reference = ?"
_IN_PASSING = "nixfetch, for a moment"  # a row that nobody ever sees
_IN_MAIN = "*** in database main ***\n"  # what a finding begins with; there is no other
_VARIABLES = 500  # parameters a statement: below SQLite's oldest limit of 999

__all__ = (
    "SCHEMA_VERSION",
    "Database",
    "DatabaseError",
    "MissingDatabaseError",
    "Registration",
    "SchemaError",
)


class InvalidReferenceError(StoreError):
    """A path was to be registered before what it refers to."""


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
    """The paths of one store. Safe to share among threads."""

    def __init__(
        self,
        directory: Path,
        *,
        read_only: bool = False,
        durable: bool = True,
        store: Path | None = None,
    ) -> None:
        """Open the database in `directory`; make it there when it is missing and may be made.

        Args, errors: as `Connection`.
        """
        self._connection = Connection(directory, read_only=read_only, durable=durable, store=store)
        self._query = self._connection.query
        self.writing = self._connection.writing
        """A transaction: all other writers wait; leaving by an exception undoes it."""

    def close(self) -> None:
        """Let go of the file."""
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

    def valid_for_good(self, paths: Collection[StorePath]) -> set[StorePath]:
        """Those of `paths` that are valid, whatever a commit that failed before may have left.

        Raises:
            DatabaseError: a transaction that changes nothing cannot be committed either.
        """
        with self.writing():
            # Pages are written, in the place of what the failed one wrote, though all is as before.
            self._connection.execute("insert into SchemaMigrations values (?)", [_IN_PASSING])
            self._connection.execute(
                "delete from SchemaMigrations where migration = ?", [_IN_PASSING]
            )
            return self.valid(paths)

    def all_valid(self) -> list[StorePath]:
        """All valid paths, ascending.

        Raises:
            DatabaseError: a row holds what no row should.
        """
        rows = self._query("select path from ValidPaths order by path")
        with self._connection.sane():
            return [path for (text,) in rows if (path := _path_in_row(text)) is not None]

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
            with self._connection.sane():
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
        with self._connection.sane():
            for (path,) in rows:
                return StorePath.parse_full(path) if path.startswith(prefix) else None
        return None

    def register(self, batch: Iterable[Registration]) -> None:
        """Make all of `batch` valid in one transaction; those that are valid already stay.

        Call it inside `writing`. All references must be valid, or in the batch.
        """
        batch = list(batch)
        for entry in batch:
            self._connection.execute(
                "insert or ignore into ValidPaths"
                " (path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca)"
                " values (?, ?, ?, ?, ?, ?, ?, ?)",
                _row(entry),
            )
        for entry in batch:
            for reference in entry.references:
                rows = self._connection.execute(
                    "insert or replace into Refs (referrer, reference)"
                    " select r.id, e.id from ValidPaths r, ValidPaths e"
                    " where r.path = ? and e.path = ?",
                    [str(entry.path), str(reference)],
                )
                if rows.rowcount != 1:
                    raise InvalidReferenceError(
                        "a reference is not valid", path=entry.path, reference=reference
                    )
            for output, path in entry.outputs:
                self._connection.execute(
                    "insert or replace into DerivationOutputs (drv, id, path)"
                    " select id, ?, ? from ValidPaths where path = ?",
                    [output, str(path), str(entry.path)],
                )

    def nodes(self) -> list[Node]:
        """All valid paths as a collector sees them, as of one moment.

        Raises:
            DatabaseError: a row holds what no row should.
        """
        columns = "id, path, deriver, narSize, registrationTime"
        with self._connection.reading(), self._connection.sane():
            # Closed whatever happens: an open cursor would hold on to this moment.
            with closing(
                self._connection.execute(f"select {columns} from ValidPaths")  # noqa: S608 - ours
            ) as rows:
                entries = {id_: (StorePath.parse_full(path), *rest) for id_, path, *rest in rows}
            paths = {path.base: path for path, *_ in entries.values()}
            references: dict[int, list[StorePath]] = {}
            with closing(self._connection.execute("select referrer, reference from Refs")) as pairs:
                for referrer, id_ in pairs:
                    references.setdefault(referrer, []).append(entries[id_][0])
        return [
            Node(
                path=path,
                references=tuple(references.get(id_, ())),
                deriver=paths.get((deriver or "").removeprefix(f"{STORE_DIR}/")),
                nar_size=size or 0,
                registered=time or 0,
            )
            for id_, (path, deriver, size, time) in entries.items()
        ]

    def closure(self, paths: Collection[StorePath]) -> dict[StorePath, tuple[StorePath, ...]]:
        """The valid ones of `paths` and all that they refer to, as of one moment.

        Returns:
            What each refers to, ascending; that may be itself.

        Raises:
            DatabaseError: a row holds what no row should.
        """
        with self._connection.reading(), self._connection.sane():
            names: dict[int, StorePath] = {}
            references: dict[int, list[int]] = {}
            rows = self._rows("select id, path from ValidPaths where path in", map(str, paths))
            while rows:
                fresh = {id_: StorePath.parse_full(path) for id_, path in rows}
                names.update(fresh)
                references.update((id_, []) for id_ in fresh)
                pairs = self._rows("select referrer, reference from Refs where referrer in", fresh)
                for referrer, id_ in pairs:
                    references[referrer].append(id_)
                wanted = {id_ for _, id_ in pairs} - names.keys()
                rows = self._rows("select id, path from ValidPaths where id in", wanted)
                if len(rows) != len(wanted):
                    raise FormatError("a reference to a path that is not there")
            return {
                path: tuple(sorted(names[other] for other in references[id_]))
                for id_, path in names.items()
            }

    def _rows(self, select: str, values: Iterable[object]) -> list[tuple]:  # type: ignore[type-arg] # rows are as SQLite gives them
        """What `select` finds for any of `values`, inside `reading`."""
        found: list[tuple] = []  # type: ignore[type-arg]
        values = list(values)
        for start in range(0, len(values), _VARIABLES):
            part = values[start : start + _VARIABLES]
            found += self._connection.execute(f"{select} ({','.join('?' * len(part))})", part)
        return found

    def forget(self, paths: Collection[StorePath]) -> set[StorePath]:
        """Make `paths` invalid, except what other paths refer to, and what those refer to.

        Call it inside `writing`.

        Returns:
            Those that were valid and are not any more.
        """
        ids = {
            id_: path
            for path in paths
            for (id_,) in self._query("select id from ValidPaths where path = ?", [str(path)])
        }
        referrers = {
            id_: {other for (other,) in self._query(_REFERRERS, [id_])} - {id_} for id_ in ids
        }
        going = set(ids)
        while needed := {id_ for id_ in going if referrers[id_] - going}:
            going -= needed
        each = [(id_,) for id_ in going]
        # References first: they may be a circle.
        self._connection.execute_many("delete from Refs where referrer = ?", each)
        self._connection.execute_many("delete from ValidPaths where id = ?", each)
        return {ids[id_] for id_ in going}

    def add_signatures(self, path: StorePath, signatures: Iterable[Signature]) -> bool:
        """Add to the signatures of a valid path. Call it inside `writing`.

        Returns:
            Whether one of them is new; False too when the path is not valid any more.
        """
        rows = self._query("select sigs from ValidPaths where path = ?", [str(path)])
        known = {text for (sigs,) in rows for text in (sigs or "").split()}
        fresh = set(map(str, signatures)) - known
        if not (rows and fresh):
            return False
        self._connection.execute(
            "update ValidPaths set sigs = ? where path = ?",
            [" ".join(sorted(known | fresh)), str(path)],
        )
        return True

    def check(self) -> None:
        """Read the whole file, and look whether it is a sound database.

        Raises:
            DatabaseError: it is not.
        """
        problems = [text for (text,) in self._query("pragma integrity_check(1)") if text != "ok"]
        if self._query("pragma foreign_key_check"):
            problems.append("references of or to paths that are not there")
        if problems:
            raise DatabaseError(
                "the store's database is damaged",
                hint=REBUILD,
                file=str(self._connection.file),
                reason=problems[0].removeprefix(_IN_MAIN),
            )

    def _references(self, id_: int) -> tuple[StorePath, ...]:
        rows = self._query(
            "select path from Refs join ValidPaths on reference = id where referrer = ?", [id_]
        )
        with self._connection.sane():
            return tuple(sorted(StorePath.parse_full(path) for (path,) in rows))


def _path_in_row(text: str) -> StorePath | None:
    """The path of a row; None, and a warning, for a name that only old Nix allowed."""
    try:
        return StorePath.parse_full(text)
    except FormatError as error:
        _log.warning("passing over a row of the store's database: %s", error)
        return None


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
