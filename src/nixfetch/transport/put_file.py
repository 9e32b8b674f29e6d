"""Writes objects into a directory. Knows files, no network.

    ROOT/.nixfetch/<random>     an object on its way: locked by who writes it
    ROOT/<name>                 there by a rename, after its bytes are on the disk

What a killed run leaves in ``.nixfetch`` is nobody's, and goes when the next one begins: a file
whose lock can be had is written by no one any more.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nixfetch.errors import StoreError
from nixfetch.transport.sink import Entry
from nixfetch.transport.urls import segments

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STAGING = ".nixfetch"
_OPEN = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o644  # whoever serves the directory reads it
_HINTS = {
    errno.ENOSPC: "free some space on its disk, and run it again",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "its file system is mounted for reading only",
    errno.EACCES: "this user may not write there",
    errno.EPERM: "this user may not write there",
}


class CannotWriteError(StoreError):
    """A directory cannot take an object. Facts: `file`, `errno`, `reason`."""


class FileSink:
    """Writes below one directory.

    Args:
        root: the directory; it is made when the first object is written.
        durable: wait for the disk; without it a power cut may leave objects that are empty.
    """

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self._root = Path(os.path.abspath(root))  # noqa: PTH100 - Path.absolute keeps ".."
        self._durable = durable
        self._swept = False

    @property
    def url(self) -> str:
        return self._root.as_uri()

    @contextmanager
    def writing(self, name: str, *, size: int | None = None) -> Iterator[FileUpload]:
        del size  # a file grows as it comes
        final = self._place(name)
        with _errors(final):
            upload = FileUpload(self._stage(), final)
        try:
            yield upload
            with _errors(final):
                self._finish(upload, final)
        finally:
            upload.close()

    def put(self, name: str, data: bytes, *, replace: bool = True) -> bool:
        if not replace and self.size(name) is not None:
            return False
        with self.writing(name) as upload:
            upload.write(data)
        return True

    def size(self, name: str) -> int | None:
        place = self._place(name)
        with _errors(place):
            try:
                status = place.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def entries(self, folder: str = "") -> Iterator[Entry]:
        place = self._place(folder) if folder else self._root
        with _errors(place):
            try:
                found = list(os.scandir(place))
            except (FileNotFoundError, NotADirectoryError):
                return
        for entry in found:
            with _errors(Path(entry.path)):
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue
            if stat.S_ISREG(status.st_mode):
                name = f"{folder}/{entry.name}" if folder else entry.name
                yield Entry(name, status.st_size, status.st_mtime)

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            place = self._place(name)
            with _errors(place):
                if place.parent != self._root:
                    _refuse_link(place.parent)
                place.unlink(missing_ok=True)

    def close(self) -> None:
        with suppress(OSError):  # others use it, or it was never made
            (self._root / STAGING).rmdir()

    def _place(self, name: str) -> Path:
        parts = segments(name)
        return self._root.joinpath(*map(os.fsdecode, parts))

    def _stage(self) -> _Staged:
        staging = self._root / STAGING
        while True:
            staging.mkdir(parents=True, exist_ok=True)
            _refuse_link(staging)
            if not self._swept:
                _sweep(staging)
                self._swept = True
            staged = _Staged.make(staging)
            if staged is not None:
                return staged

    def _finish(self, upload: FileUpload, final: Path) -> None:
        """Have the bytes on the disk before the name, and the name before anything else."""
        if self._durable:
            upload.sync()
        if not final.parent.is_dir():
            final.parent.mkdir(parents=True, exist_ok=True)
            if self._durable:
                _sync_directory(final.parent.parent)
        upload.rename()
        if self._durable:
            _sync_directory(final.parent)


class _Staged:
    """A file of the staging directory, locked."""

    def __init__(self, place: Path, descriptor: int) -> None:
        self.place = place
        self.descriptor = descriptor

    @classmethod
    def make(cls, staging: Path) -> _Staged | None:
        """A new one; None when another run took it, or the directory, before it was locked."""
        place = staging / secrets.token_hex(16)
        try:
            descriptor = os.open(place, _OPEN, _MODE)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return cls(place, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None


class FileUpload:
    """A file on its way to its name."""

    def __init__(self, staged: _Staged, final: Path) -> None:
        self._staged = staged
        self._final = final
        self._done = False

    def write(self, data: bytes) -> None:
        with _errors(self._final):
            view = memoryview(data)
            while view:
                view = view[os.write(self._staged.descriptor, view) :]

    def sync(self) -> None:
        """Wait until the bytes are on the disk."""
        os.fsync(self._staged.descriptor)

    def rename(self) -> None:
        """Give it its name."""
        os.rename(self._staged.place, self._final)  # noqa: PTH104 - says the same
        self._done = True

    def close(self) -> None:
        """Let go of it; where it has not got its name, it goes."""
        if not self._done:
            with suppress(OSError):
                self._staged.place.unlink()
        os.close(self._staged.descriptor)


def _refuse_link(directory: Path) -> None:
    """Nothing is deleted behind a symbolic link: it may be anybody's."""
    if directory.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))


def _sweep(staging: Path) -> None:
    """Remove what nobody writes any more."""
    for entry in os.scandir(staging):
        with suppress(OSError):
            descriptor = os.open(entry.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(entry.path)  # noqa: PTH108 - says the same
            finally:
                os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _errors(file: Path) -> Iterator[None]:
    """Say of the system's errors what they mean for `file`."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        raise CannotWriteError(
            "cannot write to the mirror",
            hint=_HINTS.get(number),
            file=str(file),
            errno=errno.errorcode.get(number, str(number)),
            reason=(error.strerror or "unknown").lower(),
        ) from error
