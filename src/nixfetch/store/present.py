"""What lies on the disk of a store for a closure: of each path, what kind of thing.

Knows nothing of mounts; whoever wants to show the paths elsewhere has to know what to make there.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from nixfetch.errors import StoreError
from nixfetch.store.disk import disk_error
from nixfetch.store.gone import TreeGoneError

if TYPE_CHECKING:
    from collections.abc import Collection

    from nixfetch.formats.storepath import StorePath
    from nixfetch.store.local import LocalStore


class NotPresentError(StoreError):
    """What was asked for is not valid in the store."""


class Kind(Enum):
    """What a store path is."""

    DIRECTORY = "directory"
    FILE = "file"
    SYMLINK = "symlink"


@dataclass(frozen=True, slots=True)
class Present:
    """A valid path that is on the disk."""

    path: StorePath
    kind: Kind


def present_closure(paths: Collection[StorePath], store: LocalStore) -> tuple[Present, ...]:
    """All that `paths` refer to, with themselves, ascending.

    Raises:
        NotPresentError: one of `paths` is not valid.
        TreeGoneError: something valid is not on the disk.
        DatabaseError, DiskError: the store cannot be asked.
    """
    closure = store.closure(paths)
    for path in paths:
        if path not in closure:
            raise NotPresentError(
                "path is not valid in the store",
                path=str(path),
                store=str(store.root),
                hint=f"`nixfetch fetch {path}` brings it and all that it refers to",
            )
    return tuple(Present(path, _kind(path, store)) for path in sorted(closure))


def _kind(path: StorePath, store: LocalStore) -> Kind:
    try:
        mode = os.stat(path.base, dir_fd=store.fd, follow_symlinks=False).st_mode
    except FileNotFoundError as error:
        raise TreeGoneError(path) from error
    except OSError as error:
        raise disk_error(error, store.physical(path)) from error
    if stat.S_ISDIR(mode):
        return Kind.DIRECTORY
    return Kind.SYMLINK if stat.S_ISLNK(mode) else Kind.FILE
