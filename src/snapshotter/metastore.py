"""Which snapshots there are, in a database.

A row comes before its directory and goes before it: `create` makes a row in the state
`creating`, which reserves the name and is seen by nobody else; `finish` makes it `ready` once
all else is there. What a crash left `creating` is found by `unfinished`. Ids are never used
twice, so a directory that has no row is rubbish, and stays so.

Layers that are committed outlive a power cut, and so does their removal: that is flushed before
it is answered. Active snapshots and views are flushed with the next of these; a power cut ends
what runs from them anyway, and takes what was last written to them. One that comes back without
its directory is found by whoever compares `ids` with the disk. No transaction is open when a call
returns: none waits for a path to be fetched.

Knows nothing of directories; store paths are text here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from snapshotter import lifecycle, rows
from snapshotter.database import Database
from snapshotter.errors import AlreadyExistsError, PreconditionError
from snapshotter.lifecycle import Kind, Usage
from snapshotter.rows import Removed, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from snapshotter.lifecycle import Info

__all__ = ("Metastore", "Removed", "Snapshot")


class Metastore:
    """The snapshots of one root. Safe to share among threads."""

    def __init__(
        self, file: Path, *, durable: bool = True, now: Callable[[], int] = time.time_ns
    ) -> None:
        """Open the database, or make it.

        Args:
            file: of the database; its directory is there.
            durable: whether what was answered survives a power cut.
            now: the clock: nanoseconds since 1970.

        Raises:
            DatabaseError: it is not a database of ours, or cannot be opened.
        """
        self._now = now
        self._database = Database(file, durable=durable)
        self._reading, self._writing = self._database.reading, self._database.writing
        self.instance = self._database.instance
        """Tells the roots that belong to these snapshots from those of others."""

    def close(self) -> None:
        """Let go of the file; nobody may be in a call."""
        self._database.close()

    # ------------------------------------------------------------ asking

    def info(self, name: str) -> Info:
        """What is known of a snapshot.

        Raises:
            NotFoundError: there is none.
        """
        with self._reading() as db:
            return rows.info(db, name)[1]

    def walk(self, where: Mapping[str, str] | None = None) -> list[Info]:
        """All snapshots, or those that may be meant; by name.

        Args:
            where: what they are known to have, to look at fewer: ``name``, ``parent``,
                ``label KEY``.
        """
        conditions, values = [rows.INFO], list[str]()
        for field, value in (where or {}).items():
            match field.split(" ", 1):
                case ["name"]:
                    conditions.append("and s.name = ?")
                case ["parent"]:
                    conditions.append("and coalesce(p.name, '') = ?")
                case [_, lifecycle.REF]:
                    conditions.append(
                        f"and s.id in (select snapshot_id from labels where {rows.REF_IS})"  # noqa: S608
                    )
                case [_, key]:
                    conditions.append(
                        "and s.id in (select snapshot_id from labels where key = ? and value = ?)"
                    )
                    values.append(key)
                case _:
                    continue
            values.append(value)
        with self._reading() as db:
            return rows.infos(db, db.rows(" ".join([*conditions, "order by s.name"]), values))

    def usage(self, name: str) -> tuple[int, Kind, Usage]:
        """Id and kind of a snapshot, and what it took when it was committed.

        Raises:
            NotFoundError: there is none.
        """
        with self._reading() as db:
            row = db.row(
                "select id, kind, size, inodes from snapshots where name = ? and ready", [name]
            )
        if row is None:
            raise rows.missing(name)
        return row[0], Kind(row[1]), Usage(row[2], row[3])

    def snapshot(self, name: str) -> Snapshot:
        """What it takes to mount a snapshot.

        Raises:
            NotFoundError: there is none.
        """
        with self._reading() as db:
            return rows.snapshot(db, name)

    def layer(self, ref: str, parent: str) -> str | None:
        """The committed snapshot of store paths that was made for a chain of layers, if any.

        Args:
            ref: the chain, as the label has it.
            parent: name of its parent, or empty.
        """
        with self._reading() as db:
            return rows.layer(db, ref, parent)

    def ids(self) -> set[int]:
        """Of all snapshots, those that are being made included."""
        with self._reading() as db:
            return {id_ for (id_,) in db.rows("select id from snapshots")}

    def unfinished(self) -> list[int]:
        """Those that are being made."""
        with self._reading() as db:
            return [id_ for (id_,) in db.rows("select id from snapshots where not ready")]

    def rooted(self) -> set[int]:
        """The snapshots that have store paths of their own, which need a root."""
        with self._reading() as db:
            # The primary key gives them without a look at every path.
            found = db.rows(
                "select id from snapshots s where ready"
                " and exists (select 1 from nix_paths where snapshot_id = s.id)"
            )
            return {id_ for (id_,) in found}

    def own_paths(self, id_: int) -> tuple[str, ...]:
        """The store paths of one snapshot, without those of its parents."""
        with self._reading() as db:
            found = db.rows("select path from nix_paths where snapshot_id = ? order by ord", [id_])
            return tuple(path for (path,) in found)

    def farms(self) -> set[str]:
        """Those that snapshots are mounted from."""
        with self._reading() as db:
            found = db.rows("select distinct farm from snapshots where farm is not null")
            return {farm for (farm,) in found}

    def counts(self) -> dict[Kind, int]:
        """How many snapshots there are of each kind."""
        with self._reading() as db:
            found = db.rows("select kind, count(*) from snapshots where ready group by kind")
            return {Kind(kind): count for kind, count in found}

    # ------------------------------------------------------------ changing

    def create(
        self,
        kind: Kind,
        key: str,
        parent: str,
        labels: Mapping[str, str],
        *,
        unpacking: bool = False,
    ) -> Snapshot:
        """Reserve `key`; nobody else sees the snapshot until it is finished.

        Args:
            kind: active or a view.
            key: its name.
            parent: name of a committed snapshot, or empty.
            labels: of the snapshot.
            unpacking: a layer is to be unpacked into it.

        Raises:
            NotFoundError: there is no such parent.
            InvalidArgumentError: the parent is not committed.
            AlreadyExistsError: the name is taken.
        """
        now = self._now()
        with self._writing(durable=False) as db:
            parent_id = rows.committed_id(db, parent)
            if rows.is_taken(db, key):
                raise AlreadyExistsError("there is a snapshot of that name", name=key)
            id_ = db.run(
                "insert into snapshots"
                " (name, parent_id, kind, unpacking, created_ns, updated_ns)"
                " values (?, ?, ?, ?, ?, ?)",
                [key, parent_id, kind, unpacking, now, now],
            )
            rows.add_labels(db, id_, labels)
            above = rows.snapshot(db, parent) if parent else None
        return Snapshot(
            id=id_,
            kind=kind,
            parents=(above.id, *above.parents) if above else (),
            unpacking=unpacking,
            paths=above.paths if above else (),
            own_paths=False,
            farm=None,
        )

    def finish(self, id_: int, *, paths: Sequence[str] = (), farm: str | None = None) -> None:
        """Let all see the snapshot.

        Args:
            id_: as `create` gave it.
            paths: the store paths of its own; distinct.
            farm: the one that it is mounted from.
        """
        with self._writing(durable=False) as db:
            db.run("update snapshots set ready = 1, farm = ? where id = ?", [farm, id_])
            rows.set_paths(db, id_, paths)

    def finish_layer(self, id_: int, ref: str, usage: Usage, *, paths: Sequence[str]) -> bool:
        """Let all see the snapshot as a committed one, unless another was made for its chain.

        Args:
            id_: as `create` gave it.
            ref: the chain of layers.
            usage: what it takes on the disk.
            paths: the store paths of its own; distinct.

        Returns:
            Whether it is the one; else it is as it was.
        """
        with self._writing() as db:
            (parent,) = db.row(
                "select coalesce((select name from snapshots p where p.id = s.parent_id), '')"
                " from snapshots s where id = ?",
                [id_],
            )
            if rows.layer(db, ref, parent) is not None:
                return False
            db.run(
                "update snapshots set ready = 1, kind = ?, size = ?, inodes = ? where id = ?",
                [Kind.COMMITTED, usage.size, usage.inodes, id_],
            )
            rows.set_paths(db, id_, paths)
            return True

    def abandon(self, id_: int) -> None:
        """Forget a snapshot that could not be finished."""
        with self._writing(durable=False) as db:
            db.run("delete from snapshots where id = ? and not ready", [id_])

    def set_farm(self, id_: int, farm: str) -> None:
        """Say what a snapshot is mounted from."""
        with self._writing(durable=False) as db:
            db.run("update snapshots set farm = ? where id = ?", [farm, id_])

    def commit(
        self,
        key: str,
        name: str,
        labels: Mapping[str, str],
        usage: Usage,
        *,
        parent: str = "",
        paths: Sequence[str] | None = None,
    ) -> None:
        """Make a committed snapshot of an active one; the key is given up.

        Args:
            key: of the active one.
            name: of the committed one.
            labels: in place of those that it has.
            usage: what it takes on the disk.
            parent: for one that was made without.
            paths: store paths in place of those that it has; as it has them when None.

        Raises:
            NotFoundError: there is no such snapshot, or parent.
            AlreadyExistsError: the name is taken.
            PreconditionError: it is not active.
            InvalidArgumentError: it has another parent, or the parent is not committed.
        """
        now = self._now()
        with self._writing() as db:
            row = db.row(
                "select s.id, s.kind, coalesce(p.name, '') from snapshots s"
                " left join snapshots p on p.id = s.parent_id where s.name = ? and s.ready",
                [key],
            )
            if name != key and rows.is_taken(db, name):
                raise AlreadyExistsError("there is a snapshot of that name", name=name)
            if row is None:
                raise rows.missing(key)
            lifecycle.check_commit(Kind(row[1]), key)
            parent_id = rows.committed_id(db, lifecycle.new_parent(row[2], parent))
            db.run(
                "update snapshots set name = ?, kind = ?, parent_id = ?, size = ?, inodes = ?,"
                " created_ns = ?, updated_ns = ? where id = ?",
                [
                    *(name, Kind.COMMITTED, parent_id, usage.size, usage.inodes),
                    *(now, now, row[0]),
                ],
            )
            rows.set_labels(db, row[0], labels)
            if paths is not None:
                rows.set_paths(db, row[0], paths)

    def update(self, name: str, labels: Mapping[str, str], fields: Collection[str]) -> Info:
        """Change the labels of a snapshot, as `lifecycle.updated_labels`.

        Raises:
            NotFoundError: there is none.
            InvalidArgumentError: a field cannot be changed, or there would be too many labels.
        """
        with self._writing() as db:
            id_, before = rows.info(db, name)
            after = lifecycle.updated_labels(before.labels, labels, fields)
            rows.set_labels(db, id_, lifecycle.checked_labels(after))
            db.run("update snapshots set updated_ns = ? where id = ?", [self._now(), id_])
            return rows.info(db, name)[1]

    def remove(self, name: str) -> Removed:
        """Forget a snapshot.

        Raises:
            NotFoundError: there is none.
            PreconditionError: it has children.
        """
        with self._reading() as db:
            committed = db.row(
                "select 1 from snapshots where name = ? and kind = ?", [name, Kind.COMMITTED]
            )
        with self._writing(durable=committed is not None) as db:
            row = db.row(
                "select id, exists (select 1 from nix_paths where snapshot_id = s.id), farm,"
                " (select name from snapshots c where c.parent_id = s.id limit 1)"
                " from snapshots s where name = ? and ready",
                [name],
            )
            if row is None:
                raise rows.missing(name)
            id_, own_paths, farm, child = row
            if child is not None:
                raise PreconditionError(
                    "cannot remove a snapshot that has children", name=name, child=child
                )
            db.run("delete from snapshots where id = ?", [id_])
        return Removed(id=id_, own_paths=bool(own_paths), farm=farm)

    def forget(self, ids: Collection[int]) -> list[str]:
        """Forget those of `ids` that are no layers; their names."""
        names = []
        with self._writing(durable=False) as db:
            for id_ in ids:
                row = db.row(
                    "select name from snapshots where id = ? and kind != ?", [id_, Kind.COMMITTED]
                )
                if row is not None:
                    names.append(str(row[0]))
                    db.run("delete from snapshots where id = ?", [id_])
        return names
