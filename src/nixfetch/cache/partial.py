"""Compressed bytes of interrupted downloads, kept for the next run.

    ROOT/nix/var/nixfetch/partial/<sha256 of the FileHash, or of cache and name>

Each file begins with a line that names its format and the version of the object (a strong ETag);
the bytes follow. Its lock says that somebody is at it: nobody waits for that, who comes second
does without. Only who has the lock removes the name, and only while the file has it still.

    claim ─> read ─> append … ─┬─> close      what came stays
                      restart ─┴─> discard    the file goes

Nothing is synced: a process that is killed leaves what it wrote, a power cut may leave zeros,
which the hash of the whole finds. Never an error: what cannot be kept is not kept. Where the disk
refuses, or has little left for what is downloaded, the file is given up and its bytes are free;
the download goes on without. Room is looked for a piece ahead, so all of them together may be a
piece each above their limit.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import stat
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nixfetch.formats.hashes import Hash

_log = logging.getLogger(__name__)

MOST = 4 * 1024**3  # bytes of all partial files of a store
MAX_AGE = 7 * 24 * 3600.0  # seconds; caches collect their garbage, too
SPARE = 256 * 1024 * 1024  # bytes that stay free on the disk: the store needs them more
_STEP = 16 * 1024 * 1024  # bytes between two looks for room, which cost a listing
_PIECE = 256 * 1024  # bytes read at a time
_HEADER = 512  # bytes; the line is padded to that
_MAX_VALIDATOR = 400  # characters
_TRIES = 8  # to lock a file before another process removes it
_LINE = re.compile(rb"nixfetch-partial 1 ([\x20-\x7e]*)\n")
_NAME = re.compile(r"[0-9a-f]{64}")
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


def key(file_hash: Hash | None, cache: str, name: str) -> str:
    """What a download is called: by its content where that is said, else by its place."""
    text = f"{cache}\n{name}" if file_hash is None else str(file_hash)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Partials:
    """The partial files of one store. Safe to share among threads and processes."""

    def __init__(
        self,
        directory: Path,
        *,
        most: int = MOST,
        spare: int = SPARE,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Use `directory`, and make it when it is first needed.

        Args:
            directory: where; nothing else is in it.
            most: bytes of all files together; the oldest that nobody is at go.
            spare: bytes that stay free on the disk.
            now: seconds since 1970.
        """
        self._directory = directory
        self._most = most
        self._spare = spare
        self._now = now
        self._warned = threading.Event()
        self.step = max(1, min(_STEP, most // 16))
        """Bytes between two looks for room."""

    def claim(self, name: str) -> Partial | None:
        """The partial file called `name`, locked; None where it cannot be had.

        Args:
            name: a `key`.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.sweep()
            fd = self._locked(name, _OPEN | os.O_CREAT)
        except OSError as error:
            _log.info("keeping no partial download: %s: %s", self._directory / name, error)
            return None
        return None if fd is None else Partial(self, self._directory / name, fd)

    def sweep(self, *, max_age: float = MAX_AGE, room: int = 0) -> int:
        """Remove files that are too old, and the oldest of too many; bytes freed.

        Files that somebody is at stay, whatever they are.

        Args:
            max_age: seconds since something was added; those from the future go, too.
            room: bytes that are to fit as well.
        """
        files = self._files()
        total = sum(size for _, size, _ in files)
        freed = 0
        for modified, size, name in files:
            fits = total - freed + room <= self._most
            if not (fits and abs(self._now() - modified) <= max_age) and self._removed(name):
                freed += size
        return freed

    def has_room(self, room: int) -> bool:
        """Whether `room` more bytes are within the limit; the oldest may go for them."""
        self.sweep(room=room)
        return sum(size for _, size, _ in self._files()) + room <= self._most

    def disk_has_room(self, room: int) -> bool:
        """Whether `room` more bytes leave enough of the disk for others."""
        try:
            disk = os.statvfs(self._directory)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize >= self._spare + room

    def warn(self, reason: object) -> None:
        """Say once that something is not kept."""
        if not self._warned.is_set():
            self._warned.set()
            _log.warning(
                "keeping nothing of interrupted downloads: %s: %s", self._directory, reason
            )

    def _files(self) -> list[tuple[float, int, str]]:
        """When each was written to, its bytes, its name: the oldest first."""
        files = []
        with suppress(OSError), os.scandir(self._directory) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name):
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        files.append((status.st_mtime, status.st_size, entry.name))
        return sorted(files)

    def _removed(self, name: str) -> bool:
        with suppress(OSError):
            fd = self._locked(name, _OPEN)
            if fd is not None:
                try:
                    (self._directory / name).unlink()
                finally:
                    os.close(fd)
                return True
        return False

    def _locked(self, name: str, flags: int) -> int | None:
        """A descriptor of the file that has this name, locked; None where somebody is at it.

        Raises:
            OSError: it cannot be opened, or is none of ours.
        """
        for _ in range(_TRIES):
            fd = os.open(self._directory / name, flags, 0o600)
            try:
                names = _locked_names(fd)
            except BlockingIOError:
                os.close(fd)
                return None
            except BaseException:
                os.close(fd)
                raise
            if names:
                return fd
            os.close(fd)  # it was removed before we had the lock
        return None


class Partial:
    """One partial file, in our hands until `close`. For one thread at a time."""

    def __init__(self, partials: Partials, file: Path, fd: int) -> None:
        self._partials = partials
        self._file = file
        self._fd = fd  # -1: closed, or given up
        self._room = 0  # bytes that are known to fit
        self._full = False
        self.size = 0
        """Bytes of the object that are there."""
        self.validator: str | None = None
        """Which version of the object they are of."""
        self._look()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self) -> Iterator[bytes]:
        """What is there, in pieces; it ends early where the disk refuses, and `size` is 0 then."""
        done, size = 0, self.size
        while done < size and self._fd >= 0:
            try:
                data = os.pread(self._fd, min(_PIECE, size - done), _HEADER + done)
            except OSError as error:
                self._give_up(error)
                return
            if not data:
                self._give_up("it has become shorter")
                return
            done += len(data)
            yield data

    def append(self, data: bytes | memoryview) -> None:
        """Keep what follows.

        Where there is no room for it (see `MOST`), what is there already stays, and nothing more
        is kept. Where the disk refuses, nothing is, and `size` is 0. Nobody is told.
        """
        if self._fd < 0 or self._full or not self._fits(len(data)):
            return
        try:
            while data:
                written = os.pwrite(self._fd, data, _HEADER + self.size)
                self.size += written
                data = data[written:]
        except OSError as error:
            self._give_up(error)

    def restart(self, validator: str | None) -> None:
        """Forget what is there; what is appended next is of this version."""
        if self._fd < 0:
            return
        if validator is not None and not _is_kept(validator):
            validator = None
        self.size, self.validator = 0, validator
        self._room, self._full = 0, False
        line = f"nixfetch-partial 1 {validator or ''}".encode("ascii")
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, line.ljust(_HEADER - 1) + b"\n", 0)
        except OSError as error:
            self._give_up(error)

    def discard(self) -> None:
        """Remove the file; nothing more is kept."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        self.size, self.validator = 0, None
        with suppress(OSError):
            if os.fstat(fd).st_nlink:  # the name is still this file's
                self._file.unlink()
        _close(fd)

    def close(self) -> None:
        """Let go of it; what is there stays."""
        if not self.size:
            self.discard()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _close(fd)
            self._partials.sweep()

    def _look(self) -> None:
        try:
            size = os.fstat(self._fd).st_size
            header = _LINE.fullmatch(os.pread(self._fd, _HEADER, 0))
        except OSError as error:
            self._give_up(error)
            return
        if header is None or size < _HEADER:
            self.restart(None)
        else:
            self.size = size - _HEADER
            self.validator = header[1].decode("ascii").rstrip(" ") or None

    def _fits(self, size: int) -> bool:
        if self.size + size <= self._room:
            return True
        step = max(size, self._partials.step)
        if not self._partials.disk_has_room(step):
            _log.info("giving up %s: the disk is nearly full", self._file)
            self.discard()
            return False
        self._full = not self._partials.has_room(step)
        self._room = self.size + step
        return not self._full

    def _give_up(self, reason: object) -> None:
        self._partials.warn(reason)
        self.discard()


def _is_kept(validator: str) -> bool:
    return validator.isascii() and validator.isprintable() and len(validator) <= _MAX_VALIDATOR


def _locked_names(fd: int) -> int:
    """Lock an open file; the number of its names: one, or none if it was removed meanwhile.

    Raises:
        BlockingIOError: somebody is at it.
        OSError: it cannot be locked, or is none of ours.
    """
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    status = os.fstat(fd)
    ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink <= 1
    if not ours:
        raise PermissionError("not a file of ours")
    return status.st_nlink


def _close(fd: int) -> None:
    with suppress(OSError):  # a network's disk may say only here what it could not write
        os.close(fd)
