"""One warmer at a time for one target: the file of a lock, held while it runs."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nixfetch.errors import NixfetchError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o600
_LOOK = 0.5  # seconds between two looks, for `flock` would not let signals through


class AlreadyRunningError(NixfetchError):
    """Another run holds the lock. Facts: `lock`, and `holder`, its process id, where known."""

    exit_code = 75


class LockFileError(StoreError):
    """The file of the lock cannot be had."""


@contextmanager
def only_one(
    file: Path, *, wait: bool = False, sleep: Callable[[float], object] = time.sleep
) -> Iterator[None]:
    """Hold the lock `file`; it is made where it is not there, and stays.

    Args:
        file: its directory must be there.
        wait: for whoever holds it.
        sleep: waits for a number of seconds.

    Raises:
        AlreadyRunningError: another run holds it, and `wait` is False.
        LockFileError: the file cannot be made.
    """
    descriptor = _opened(file)
    try:
        while not _try(descriptor):
            if not wait:
                holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
                raise AlreadyRunningError(
                    "another run is at it",
                    hint="--wait waits for it",
                    lock=str(file),
                    holder=holder or None,
                )
            sleep(_LOOK)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _opened(file: Path) -> int:
    try:
        return os.open(file, _OPEN, _MODE)
    except OSError as error:
        reason = (error.strerror or "unknown").lower()
        raise LockFileError("cannot open the lock", file=str(file), reason=reason) from error


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
