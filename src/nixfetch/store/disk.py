"""What the operating system says when a disk refuses, as errors of ours."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nixfetch.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

_HINTS = {
    errno.ENOSPC: "free some space, or choose another disk with --store",
    errno.EDQUOT: "free some space, or raise the quota",
    errno.EACCES: "choose a store that you may write to with --store",
    errno.EPERM: "choose a store that you may write to with --store",
    errno.EROFS: "choose a store that you may write to with --store",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


class DiskError(StoreError):
    """The operating system refused. Carries `file` and `errno`, its symbolic name."""


def disk_error(error: OSError, file: str | os.PathLike[str]) -> DiskError:
    """`error` as one of ours; `file` is what was worked on."""
    number = error.errno or 0
    reason = os.strerror(number).lower() if number else str(error)
    hint, known = _HINTS.get(number), {"errno": errno.errorcode.get(number)}
    closed = _closed_directory(Path(file)) if number == errno.EACCES else None
    if closed is not None:
        known["directory"] = os.fspath(closed)
        hint = f"{closed} may not be searched: have it opened (chmod +x), or take another --store"
    return DiskError(reason, hint=hint, file=os.fspath(file), **known)


@contextmanager
def disk_errors(file: str | os.PathLike[str], *, hint: str | None = None) -> Iterator[None]:
    """Turn any `OSError` of the few calls inside into a `DiskError` about `file`.

    Only around system calls of ours: never around a `yield`, where errors of a caller pass.

    Args:
        file: what is worked on.
        hint: what to do, where that is not what it is for a store.
    """
    try:
        yield
    except OSError as error:
        refusal = disk_error(error, file)
        refusal.hint = hint or refusal.hint
        raise refusal from error


def is_there(file: Path) -> bool:
    """Whether there is a file or directory of that name, at the end of links.

    Raises:
        DiskError: nobody can say, as below a directory that may not be searched.
    """
    with disk_errors(file):
        try:
            file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


def _closed_directory(file: Path) -> Path | None:
    """The first directory on the way to `file` that may not be searched, if that can be told."""
    if not file.is_absolute():
        return None
    return next((each for each in reversed(file.parents) if not os.access(each, os.X_OK)), None)
