"""Trees that a rebuild of the database could not register: a list, so that nobody collects them.

To a collector they are what any name without a row is, and what only they refer to is dead. They
were valid before, though, as far as anybody knows, and may be so again. Knows nothing of why.

A list is a file of base names, one a line. It is replaced whole, and only a rebuild or the end
of a collector that was told to do without these trees makes it shorter.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nixfetch.errors import FormatError, StoreError
from nixfetch.formats.storepath import StorePath
from nixfetch.store.disk import disk_errors

if TYPE_CHECKING:
    from collections.abc import Collection

    from nixfetch.store.layout import Layout
    from nixfetch.store.local import LocalStore

_HINT = (
    "`nixfetch verify --rebuild-db` with more caches or keys registers what these vouch for;"
    " `nixfetch fetch` has a path anew; `nixfetch gc --unregistered` deletes the rest"
)


class UnregisteredTreesError(StoreError):
    """A collector would delete what the database lost when it was rebuilt."""


def note_unregistered(layout: Layout, paths: Collection[StorePath]) -> None:
    """Have the list name `paths` and nothing else; it is on disk when this returns.

    Raises:
        DiskError: it is the old one.
    """
    file = layout.unregistered
    with disk_errors(file):
        if not paths:
            file.unlink(missing_ok=True)
            return
        fresh = file.with_name(f"{file.name}.{os.getpid()}")
        with fresh.open("w", encoding="ascii") as lines:
            lines.writelines(f"{path.base}\n" for path in sorted(paths))
            lines.flush()
            os.fsync(lines.fileno())
        fresh.replace(file)
        directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def noted(layout: Layout) -> list[StorePath]:
    """What the list names.

    Raises:
        DiskError: it cannot be read.
    """
    with disk_errors(layout.unregistered):
        try:
            lines = layout.unregistered.read_text("ascii", "replace").splitlines()
        except FileNotFoundError:
            return []
    return [path for line in lines if (path := _parsed(line)) is not None]


def unregistered(store: LocalStore) -> list[StorePath]:
    """What the list names, is there, and is still no valid path.

    Raises:
        DiskError: the list cannot be read.
        DatabaseError: the store cannot be asked.
    """
    there = [path for path in noted(store.layout) if os.path.lexists(store.physical(path))]
    valid = store.valid(there)
    return [path for path in there if path not in valid]


def refuse_to_collect(store: LocalStore) -> None:
    """Hold a collector back as long as there are such trees.

    Raises:
        UnregisteredTreesError: there are some.
        DiskError, DatabaseError: as `unregistered`.
    """
    if paths := unregistered(store):
        raise UnregisteredTreesError(
            "paths that the rebuilt database does not have would be deleted",
            hint=_HINT,
            store=str(store.root),
            count=len(paths),
            unregistered=[str(path) for path in paths],
        )


def _parsed(line: str) -> StorePath | None:
    try:
        return StorePath.parse(line)
    except FormatError:
        return None
