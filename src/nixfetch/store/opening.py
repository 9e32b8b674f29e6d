"""The directories and the lock of a store that is opened for writing."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING

from nixfetch.errors import StoreError
from nixfetch.store.disk import DiskError, disk_error, is_there
from nixfetch.store.reserve import keep_reserve

if TYPE_CHECKING:
    from pathlib import Path

    from nixfetch.store.layout import Layout

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MODE = 0o755  # whatever the umask adds: nobody else may replace valid paths
_READ_ONLY = (
    "even where all is there already, whoever uses paths writes a lock and temporary roots, which"
    " keep them from a collector; `nixfetch path-info --local` and `nixfetch verify` only read"
)
_LOCK_FILE = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


def make_directories(layout: Layout, *, durable: bool) -> None:
    """Make what is missing of a store, so that it is there after a power cut too.

    Raises:
        DiskError: something cannot be made.
    """
    wanted = (layout.store, layout.database, layout.temp_roots, layout.gc_roots, layout.inflight)
    is_new = not is_there(layout.database)
    try:
        for directory in wanted:
            _make(directory, durable=durable)
    except OSError as error:
        raise _refused(error, error.filename or layout.root) from error
    if is_new:  # else a collector on a full disk may have given it up to open the store
        keep_reserve(layout)


class LinkedStoreError(StoreError):
    """The store directory is a symbolic link: Nix refuses that too."""


def open_store(layout: Layout) -> int:
    """Open the store directory, in which a collector deletes whatever is no valid path.

    Returns:
        A descriptor.

    Raises:
        LinkedStoreError: it is a symbolic link, so that what is behind it may be anything.
        DiskError: it cannot be opened.
    """
    try:
        return os.open(layout.store, _DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR} and layout.store.is_symlink():
            raise LinkedStoreError(
                "the store directory is a symbolic link",
                hint="mount the directory there (`mount --bind`), or choose another --store",
                directory=os.fspath(layout.store),
            ) from error
        raise disk_error(error, layout.store) from error


def lock_store(layout: Layout) -> int:
    """Take the big lock as every reader does; Nix upgrades a store's schema under it.

    Returns:
        A descriptor; the lock is held until it is closed.

    Raises:
        DiskError: the lock file cannot be made or locked.
    """
    file = layout.database / "big-lock"
    try:
        fd = os.open(file, _LOCK_FILE, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        raise _refused(error, file) from error
    return fd


def _refused(error: OSError, file: str | os.PathLike[str]) -> DiskError:
    refusal = disk_error(error, file)
    if error.errno == errno.EROFS:
        refusal.hint = _READ_ONLY
    return refusal


def _make(directory: Path, *, durable: bool) -> None:
    if is_there(directory):
        return
    _make(directory.parent, durable=durable)
    directory.mkdir(_MODE, exist_ok=True)
    if durable:
        fd = os.open(directory.parent, _DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
