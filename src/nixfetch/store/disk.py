"""What the operating system says when a disk refuses, as errors of ours."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
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
    return DiskError(
        reason, hint=_HINTS.get(number), file=os.fspath(file), errno=errno.errorcode.get(number)
    )


@contextmanager
def disk_errors(file: str | os.PathLike[str]) -> Iterator[None]:
    """Turn any `OSError` of the few calls inside into a `DiskError` about `file`.

    Only around system calls of ours: never around a `yield`, where errors of a caller pass.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(error, file) from error
