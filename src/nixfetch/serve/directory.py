"""A cache directory as a source: what ``nix copy --to file:///dir`` writes, and nothing else.

Names are matched before anything is opened, and opened folder by folder from one descriptor,
following no symbolic link: no name leads out of the directory, and no other file in it is served.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from nixfetch.errors import StoreError
from nixfetch.serve import objects
from nixfetch.serve.objects import Object

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

CHUNK = 256 * 1024  # bytes read at a time
_HASH_PART = "[0-9a-df-np-sv-z]{32}"
_SEGMENT = r"(?!\.)[0-9A-Za-z+\-._?=:!]{1,255}"  # 255 bytes: NAME_MAX on Linux
_FOLDERS = "nar|log|debuginfo|realisations|build-trace-v2"
_DEEPEST = 8  # folders below the first; real caches have one
_NAME = re.compile(
    rf"{objects.CACHE_INFO}|{_HASH_PART}\.(?:narinfo|ls)|"
    rf"(?:{_FOLDERS})(?:/{_SEGMENT}){{1,{_DEEPEST}}}"
)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO would wait for a writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_ABSENT = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV}
)
_TYPES = {".narinfo": objects.NARINFO_TYPE, ".ls": objects.LISTING_TYPE}


class UnreadableCacheError(StoreError):
    """The cache directory, or a file in it, cannot be read. Carries `file` and `reason`."""


class ShrunkFileError(StoreError):
    """A file became shorter while it was read."""


class DirectorySource:
    """One cache directory, open. Close it, or leave its ``with`` block."""

    def __init__(self, directory: Path) -> None:
        """Open `directory`, which may be a symbolic link.

        Raises:
            UnreadableCacheError: it is no directory, or no cache.
        """
        try:
            self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(error, os.fspath(directory)) from error
        try:
            os.stat(objects.CACHE_INFO, dir_fd=self._fd, follow_symlinks=False)
        except OSError as error:
            os.close(self._fd)
            raise UnreadableCacheError(
                "this directory is no binary cache",
                hint="a cache holds a file nix-cache-info; `nix copy --to file://DIR` makes one",
                file=os.fspath(directory),
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._fd)

    @contextmanager
    def open(self, name: str) -> Iterator[Object | None]:
        fd = self._open(name) if _NAME.fullmatch(name) else None
        if fd is None:
            yield None
            return
        try:
            yield _object(fd, name)
        finally:
            os.close(fd)

    def _open(self, name: str) -> int | None:
        *folders, last = name.split("/")
        here = self._fd
        try:
            for folder in folders:
                below = os.open(folder, _FOLDER, dir_fd=here)
                if here != self._fd:
                    os.close(here)
                here = below
            return os.open(last, _FILE, dir_fd=here)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise _unreadable(error, name) from error
        finally:
            if here != self._fd:
                os.close(here)


def _object(fd: int, name: str) -> Object | None:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return None
    return Object(
        size=status.st_size,
        media_type=_media_type(name),
        read=lambda start, stop: _chunks(fd, start, stop, name),
        tag=f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}",
    )


def _media_type(name: str) -> str:
    if name == objects.CACHE_INFO:
        return objects.CACHE_INFO_TYPE
    if name.startswith("nar/"):
        return objects.NAR_TYPE
    _, dot, ending = name.rpartition(".")
    return _TYPES.get(dot + ending, "application/octet-stream")


def _chunks(fd: int, start: int, stop: int, name: str) -> Iterator[bytes]:
    while start < stop:
        try:
            chunk = os.pread(fd, min(CHUNK, stop - start), start)
        except OSError as error:
            raise _unreadable(error, name) from error
        if not chunk:
            raise ShrunkFileError("file shrank while it was read", file=name, offset=start)
        yield chunk
        start += len(chunk)


def _unreadable(error: OSError, file: str) -> UnreadableCacheError:
    reason = (error.strerror or "unknown").lower()
    return UnreadableCacheError("cannot read the cache", file=file, reason=reason)
