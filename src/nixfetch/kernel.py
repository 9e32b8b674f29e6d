"""Linux calls that Python 3.11 lacks. Knows nothing of stores."""

from __future__ import annotations

import ctypes
import os
from functools import cache


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def syncfs(fd: int) -> None:
    """Write all dirty data of the file system that `fd` lies on to its disk.

    Raises:
        OSError: the disk refused; what was written since the last good call may be lost.
    """
    if _libc().syncfs(fd) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
