"""What the rows of snapshots say, and how some of them are written. Opens no transaction.

Statements are text of this module; what others say goes into them as parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from snapshotter import lifecycle
from snapshotter.errors import NotFoundError
from snapshotter.lifecycle import Info, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from snapshotter.database import Connection

_FEW = 20  # snapshots whose labels are looked up one by one; else all labels are read

_CHAIN = """
with recursive chain (id, parent_id, depth) as (
    select id, parent_id, 0 from snapshots where name = ? and ready
    union all
    select s.id, s.parent_id, depth + 1 from snapshots s join chain c on s.id = c.parent_id
)
"""
_CHAIN_ROWS = f"""{_CHAIN}
select s.id, s.kind, s.unpacking, s.farm,
    exists (select 1 from nix_paths where snapshot_id = s.id)
from chain c join snapshots s on s.id = c.id order by c.depth
"""  # noqa: S608 - text of this module
_CHAIN_PATHS = f"""{_CHAIN}
select n.path from chain c join nix_paths n on n.snapshot_id = c.id order by c.depth, n.ord
"""  # noqa: S608 - text of this module
INFO = (
    "select s.id, s.name, coalesce(p.name, ''), s.kind, s.created_ns, s.updated_ns"
    " from snapshots s left join snapshots p on p.id = s.parent_id where s.ready"
)
"""A query for `infos`; more conditions may follow it."""
_ONE = f"{INFO} and s.name = ?"
REF_IS = f"key = '{lifecycle.REF}' and value = ?"
"""A condition on labels that has an index: its key is text of the statement."""
_LAYER = f"""
select s.name from labels l join snapshots s on s.id = l.snapshot_id
left join snapshots p on p.id = s.parent_id
where {REF_IS} and coalesce(p.name, '') = ? and s.ready and s.kind = ?
    and exists (select 1 from nix_paths where snapshot_id = s.id)
"""  # noqa: S608 - text of this module


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What it takes to mount a snapshot."""

    id: int
    kind: Kind
    parents: tuple[int, ...]
    """Ids, the nearest first."""
    unpacking: bool
    """A layer is unpacked into it; no container runs from it."""
    paths: tuple[str, ...]
    """The store paths of its parents, and its own; distinct, those of near layers first."""
    own_paths: bool
    """Whether some of them are its own."""
    farm: str | None


@dataclass(frozen=True, slots=True)
class Removed:
    """What a snapshot has left behind."""

    id: int
    own_paths: bool
    """Whether it had store paths of its own, and a root of them."""
    farm: str | None


def missing(name: str) -> NotFoundError:
    """The error that says so."""
    return NotFoundError("snapshot does not exist", name=name)


def is_taken(db: Connection, name: str) -> bool:
    """Whether there is a snapshot called `name`, or one that is being made."""
    return db.row("select 1 from snapshots where name = ?", [name]) is not None


def committed_id(db: Connection, name: str) -> int | None:
    """The id of the parent called `name`; None for none.

    Raises:
        NotFoundError: there is no such snapshot.
        InvalidArgumentError: it is not committed.
    """
    if not name:
        return None
    row = db.row("select id, kind from snapshots where name = ? and ready", [name])
    if row is None:
        raise NotFoundError("parent does not exist", parent=name)
    lifecycle.check_parent(Kind(row[1]), name)
    return int(row[0])


def layer(db: Connection, ref: str, parent: str) -> str | None:
    """As `Metastore.layer`."""
    row = db.row(_LAYER, [ref, parent, Kind.COMMITTED])
    return None if row is None else str(row[0])


def snapshot(db: Connection, name: str) -> Snapshot:
    """What it takes to mount a snapshot.

    Raises:
        NotFoundError: there is none.
    """
    chain = db.rows(_CHAIN_ROWS, [name])
    if not chain:
        raise missing(name)
    ids = tuple(id_ for id_, *_ in chain)
    _, kind, unpacking, farm, own_paths = chain[0]
    paths = db.rows(_CHAIN_PATHS, [name]) if any(row[-1] for row in chain) else []
    return Snapshot(
        id=ids[0],
        kind=Kind(kind),
        parents=ids[1:],
        unpacking=bool(unpacking),
        paths=tuple(dict.fromkeys(path for (path,) in paths)),
        own_paths=bool(own_paths),
        farm=farm,
    )


def info(db: Connection, name: str) -> tuple[int, Info]:
    """Id of a snapshot, and what is known of it.

    Raises:
        NotFoundError: there is none.
    """
    found = db.rows(_ONE, [name])
    if not found:
        raise missing(name)
    return found[0][0], infos(db, found)[0]


def infos(db: Connection, rows: Sequence[Sequence[Any]]) -> list[Info]:
    """What is known of snapshots.

    Args:
        db: the tables.
        rows: as `INFO` gives them.
    """
    labels: dict[int, dict[str, str]] = {}
    if len(rows) <= _FEW:
        found = [
            label
            for row in rows
            for label in db.rows("select * from labels where snapshot_id = ?", [row[0]])
        ]
    else:
        found = db.rows("select * from labels order by snapshot_id, key")
    for id_, key, value in found:
        labels.setdefault(id_, {})[key] = value
    return [
        Info(
            name=name,
            parent=parent,
            kind=Kind(kind),
            labels=MappingProxyType(labels.get(id_, {})),
            created_ns=created,
            updated_ns=updated,
        )
        for id_, name, parent, kind, created, updated in rows
    ]


def set_labels(db: Connection, id_: int, labels: Mapping[str, str]) -> None:
    """Let these be the labels of a snapshot."""
    db.run("delete from labels where snapshot_id = ?", [id_])
    add_labels(db, id_, labels)


def add_labels(db: Connection, id_: int, labels: Mapping[str, str]) -> None:
    """Give labels to a snapshot that has none of them."""
    db.run_many("insert into labels values (?, ?, ?)", [(id_, *item) for item in labels.items()])


def set_paths(db: Connection, id_: int, paths: Sequence[str]) -> None:
    """Let these be the store paths of its own."""
    db.run("delete from nix_paths where snapshot_id = ?", [id_])
    db.run_many(
        "insert into nix_paths values (?, ?, ?)",
        [(id_, place, path) for place, path in enumerate(paths)],
    )
