"""What a snapshot is, and which changes of it are legal.

    prepare ──> ACTIVE ──commit──> COMMITTED ──> parent of others
    view    ──> VIEW                              │
       └── remove ──<── any without children ──<──┘

An active snapshot and a view have a *key*, a committed one has a *name*; both live in one
namespace. Commit gives up the key for the name, and replaces the labels.

Knows nothing of directories, of Nix, or of where snapshots are kept.

Source: containerd, core/snapshots/snapshotter.go and core/snapshots/storage/bolt.go.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from snapshotter.errors import InvalidArgumentError, PreconditionError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

MAX_NAME = 4096  # bytes; containerd's longest key is about 200
MAX_LABEL = 4096  # bytes of a key and its value together; containerd's own limit
MAX_LABELS = 32_768  # one a store path, and as many paths as 4 MiB of a manifest can hold
REF = "containerd.io/snapshot.ref"
"""The label that names the chain of layers that is being unpacked."""

_UNPACKING = re.compile(r"(?:.*/)?extract-\d+-\S+ \S+", re.DOTALL)


_CHAIN = re.compile(r"(?:.*[/ ])?(sha256:[0-9a-f]{64})", re.DOTALL)


class Kind(IntEnum):
    """The numbers are those on the wire."""

    VIEW = 1
    ACTIVE = 2
    COMMITTED = 3

    @property
    def word(self) -> str:
        """As filters write it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What is known of a snapshot. Times are nanoseconds since 1970."""

    name: str
    kind: Kind
    parent: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    created_ns: int
    updated_ns: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What a snapshot takes on the disk, its parents not counted."""

    size: int
    """Bytes, as the file system allots them."""
    inodes: int


def checked_name(name: str, what: str) -> str:
    """`name`, when it can be one.

    Args:
        name: of a snapshot.
        what: which one, for the error.

    Raises:
        InvalidArgumentError: it is empty, too long, or holds a NUL.
    """
    if not name:
        raise InvalidArgumentError("a snapshot must have a name", what=what)
    if len(name.encode()) > MAX_NAME:
        raise InvalidArgumentError(
            "name of a snapshot is too long", what=what, size=len(name.encode()), limit=MAX_NAME
        )
    if "\0" in name:
        raise InvalidArgumentError("name of a snapshot holds a NUL", what=what, name=ascii(name))
    return name


def checked_labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    """The labels that are kept of `labels`: an empty value is none, as containerd has it.

    Raises:
        InvalidArgumentError: they are too many, or one is too long.
    """
    if len(labels) > MAX_LABELS:
        raise InvalidArgumentError("too many labels", labels=len(labels), limit=MAX_LABELS)
    for key, value in labels.items():
        if (size := len(key.encode()) + len(value.encode())) > MAX_LABEL:
            raise InvalidArgumentError(
                "label is too long", label=ascii(key[:100]), size=size, limit=MAX_LABEL
            )
    return MappingProxyType({key: value for key, value in labels.items() if value})


def is_unpacking(key: str, labels: Mapping[str, str]) -> bool:
    """Whether a layer is to be unpacked into this snapshot, and no container will run from it.

    Containerd's unpackers name the chain in a label, and where labels do not arrive (an unpack
    without annotations) their keys still have a form of their own.
    """
    return REF in labels or _UNPACKING.fullmatch(key) is not None


def check_parent(kind: Kind, name: str) -> None:
    """Whether a snapshot of `kind` can have children.

    Raises:
        InvalidArgumentError: only a committed one can.
    """
    if kind is not Kind.COMMITTED:
        raise InvalidArgumentError("parent is not a committed snapshot", parent=name)


def check_mountable(kind: Kind, name: str) -> None:
    """Whether a snapshot of `kind` has mounts.

    Raises:
        PreconditionError: it is committed.
    """
    if kind is Kind.COMMITTED:
        raise PreconditionError("a committed snapshot has no mounts", name=name)


def check_commit(kind: Kind, key: str) -> None:
    """Whether a snapshot of `kind` can be committed.

    Raises:
        PreconditionError: only an active one can.
    """
    if kind is not Kind.ACTIVE:
        raise PreconditionError("snapshot is not active", key=key)


def new_parent(prepared: str, committed: str) -> str:
    """The parent of a snapshot once it is committed.

    Args:
        prepared: the one that it was prepared with, or empty.
        committed: the one that the commit names, or empty.

    Raises:
        InvalidArgumentError: both name one, and not the same.
    """
    if prepared and committed and prepared != committed:
        raise InvalidArgumentError(
            "parent of a snapshot cannot change at its commit", parent=prepared, asked=committed
        )
    return prepared or committed


def updated_labels(
    before: Mapping[str, str], after: Mapping[str, str], fields: Collection[str]
) -> dict[str, str]:
    """The labels of a snapshot after an update: nothing else of it can change.

    Args:
        before: those that it has.
        after: those of the request.
        fields: which to take: ``labels``, ``labels.KEY``; all when it is empty.

    Raises:
        InvalidArgumentError: a field cannot be changed.
    """
    labels = dict(before) if fields else dict(after)
    for path in fields:
        if path == "labels":
            labels = dict(after)
        elif path.startswith("labels."):
            key = path.removeprefix("labels.")
            labels[key] = after.get(key, "")
        else:
            raise InvalidArgumentError("field of a snapshot cannot be changed", field=path[:100])
    return labels


def chain_id(parent: str, diff_id: str) -> str | None:
    """What containerd calls a layer on top of `parent`.

    Args:
        parent: its name, which ends in the chain of layers below; empty for the lowest layer.
        diff_id: digest of the layer, uncompressed.

    Returns:
        The digest of the chain; None when the name of the parent does not tell.

    Source: OCI image specification, config.md, "Layer ChainID".
    """
    if not parent:
        return diff_id
    found = _CHAIN.fullmatch(parent)
    if found is None:
        return None
    return f"sha256:{hashlib.sha256(f'{found[1]} {diff_id}'.encode()).hexdigest()}"
