"""Valid paths whose trees are not there: somebody removed them behind the store's back.

Looks for names only, at the price of one system call a path; what they hold is `verify`'s.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nixfetch.errors import StoreError
from nixfetch.store.disk import disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath


class TreeGoneError(StoreError):
    """A path is registered, and there is nothing of its name on the disk."""

    def __init__(self, path: StorePath) -> None:
        super().__init__(
            "registered, but missing on disk",
            hint=f"`nixfetch verify --repair {path}` fetches it anew",
            path=path,
        )


def gone(directory: Path, fd: int, paths: Iterable[StorePath]) -> dict[StorePath, TreeGoneError]:
    """Those of `paths`, valid ones, that are not there.

    Args:
        directory: the store's, for messages.
        fd: a descriptor of it.
        paths: to look for.

    Raises:
        DiskError: the disk cannot be asked.
    """
    return {path: TreeGoneError(path) for path in paths if not _is_there(directory, fd, path)}


def _is_there(directory: Path, fd: int, path: StorePath) -> bool:
    with disk_errors(directory / path.base):
        try:
            os.stat(path.base, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
    return True
