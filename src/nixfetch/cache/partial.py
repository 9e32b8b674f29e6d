"""Compressed bytes of interrupted downloads, kept for the next run.

    ROOT/nix/var/nixfetch/partial/<sha256 of the FileHash, or of cache and name>

Each file begins with a line that names its format and the version of the object (a strong ETag);
the bytes follow. Its lock says that somebody is at it: nobody waits for that, who comes second
does without. Nothing is synced: a process that is killed leaves what it wrote, a power cut may
leave zeros, which the hash of the whole finds. Never an error: what cannot be kept is not kept.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
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
_PIECE = 256 * 1024  # bytes read at a time
_HEADER = 512  # bytes; the line is padded to that
_MAX_VALIDATOR = 400  # characters
_LINE = re.compile(rb"nixfetch-partial 1 ([\x20-\x7e]*?) *\n")
_NAME = re.compile(r"[0-9a-f]{64}")
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


def key(file_hash: Hash | None, cache: str, name: str) -> str:
    """What a download is called: by its content where that is said, else by its place."""
    text = f"{cache}\n{name}" if file_hash is None else str(file_hash)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


class Partials:
    """The partial files of one store. Safe to share among threads and processes."""

    def __init__(
        self, directory: Path, *, most: int = MOST, now: Callable[[], float] = time.time
    ) -> None:
        """Use `directory`, and make it when it is first needed.

        Args:
            directory: where; nothing else is in it.
            most: bytes of all files together; the oldest that nobody is at go.
            now: seconds since 1970.
        """
        self._directory = directory
        self._most = most
        self._now = now

    def claim(self, name: str) -> Partial | None:
        """The partial file called `name`, locked; None where it cannot be had."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.sweep()
            fd = os.open(self._directory / name, _OPEN, 0o600)
        except OSError as error:
            _log.info("keeping no partial downloads: %s: %s", self._directory, error)
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:  # nobody swept it away before it was locked
                return Partial(self._directory / name, fd)
        except OSError:  # somebody else is at it
            pass
        os.close(fd)
        return None

    def sweep(self, *, max_age: float = MAX_AGE) -> int:
        """Remove files that are too old, and the oldest of too many; bytes freed.

        Files that somebody is at stay, whatever they are.

        Raises:
            OSError: the directory cannot be read.
        """
        try:
            with os.scandir(self._directory) as entries:
                files = [
                    (entry.stat(follow_symlinks=False), entry.name)
                    for entry in entries
                    if _NAME.fullmatch(entry.name)
                ]
        except FileNotFoundError:
            return 0
        files.sort(key=lambda file: file[0].st_mtime, reverse=True)  # the newest first
        kept = freed = 0
        for status, name in files:
            kept += status.st_size
            if self._now() - status.st_mtime > max_age or kept > self._most:
                freed += status.st_size if self._removed(name) else 0
        return freed

    def _removed(self, name: str) -> bool:
        try:
            fd = os.open(self._directory / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (self._directory / name).unlink()
        except OSError:
            return False
        finally:
            os.close(fd)
        return True


class Partial:
    """One partial file, in our hands until `close`."""

    def __init__(self, file: Path, fd: int) -> None:
        self._file = file
        self._fd = fd
        self.size = 0
        """Bytes of the object that are there."""
        self.validator: str | None = None
        """Which version of the object they are of."""
        self._writing = True
        self._look()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self) -> Iterator[bytes]:
        """What is there."""
        done, size = 0, self.size
        while done < size:
            data = os.pread(self._fd, min(_PIECE, size - done), _HEADER + done)
            if not data:
                return
            done += len(data)
            yield data

    def append(self, data: bytes) -> None:
        """Keep what follows. Where the disk refuses, the file is given up, and nobody told."""
        if not self._writing:
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
        text = (validator or "").encode("ascii", "replace")
        if len(text) > _MAX_VALIDATOR:
            text = b""
        header = (b"nixfetch-partial 1 " + text).ljust(_HEADER - 1) + b"\n"
        self.size, self.validator = 0, text.decode("ascii") or None
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, header, 0)
        except OSError as error:
            self._give_up(error)
        else:
            self._writing = True

    def discard(self) -> None:
        """Remove the file."""
        if self._fd >= 0:
            self.size, self._writing = 0, False
            with suppress(OSError):
                self._file.unlink()

    def close(self) -> None:
        """Let go of it; what is there stays."""
        if self._fd < 0:
            return
        if not self.size:
            self.discard()
        fd, self._fd = self._fd, -1
        os.close(fd)

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
            self.validator = header[1].decode("ascii") or None

    def _give_up(self, error: OSError) -> None:
        code = errno.errorcode.get(error.errno or 0, "")
        _log.warning("keeping nothing of this download for later: %s: %s", self._file, code)
        self.size, self._writing = 0, False
        with suppress(OSError):
            os.ftruncate(self._fd, 0)
