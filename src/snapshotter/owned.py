"""Directories that are ours: whose content we delete by its name.

A link in the place of one would have us delete what somebody else has behind it; one that others
may write to lets them choose what we find. So both are refused before anything is looked at.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from snapshotter.errors import InternalError

if TYPE_CHECKING:
    from pathlib import Path

_OTHERS = 0o022  # group and all others may write


class NotOursError(InternalError):
    """A directory that should be ours alone is not, or cannot be made."""


def claim(directory: Path, *, link: bool = False) -> None:
    """Make a directory where there is none, and see to it that it is ours.

    Args:
        directory: the path; parents are made too.
        link: whether the path itself may be a symbolic link, as an operator makes one to another
            disk. The directory behind it is checked.

    Raises:
        NotOursError: it is a link or no directory, belongs to somebody else, others may write to
            it, or it cannot be made.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat() if link else directory.lstat()
    except FileExistsError as error:
        status = directory.lstat()
        if not stat.S_ISLNK(status.st_mode):
            raise _not_ours("there is something else where a directory should be", directory) from (
                error
            )
    except OSError as error:
        raise NotOursError(
            "directory cannot be used", directory=directory, reason=error.strerror
        ) from error
    if stat.S_ISLNK(status.st_mode):
        raise _not_ours("directory is a symbolic link", directory)
    if status.st_uid not in (os.geteuid(), 0):
        raise NotOursError(
            "directory belongs to another user", directory=directory, uid=status.st_uid
        )
    if status.st_mode & _OTHERS:
        raise NotOursError(
            "others may write to the directory",
            directory=directory,
            mode=f"{stat.S_IMODE(status.st_mode):04o}",
            hint=f"chmod go-w {directory}",
        )


def _not_ours(problem: str, directory: Path) -> NotOursError:
    return NotOursError(
        problem,
        directory=directory,
        hint="what lies in there is deleted by its name: remove it, or choose another --root",
    )
