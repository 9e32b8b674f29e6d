"""From the events of a NAR to files: the one place that creates what an archive names.

Everything is made relative to a directory descriptor, exclusively and without following
links, in its final mode and with mtime 1, in four system calls a file (open, write, utimensat,
close). A directory is private (0700) until it is complete.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from nixfetch.formats.nar import Contents, Directory, End, Event, Regular, Symlink
from nixfetch.store.descent import Descent
from nixfetch.store.disk import disk_error

if TYPE_CHECKING:
    from collections.abc import Callable

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE, _PROGRAM, _DIRECTORY = 0o444, 0o555, 0o555
_PRIVATE = 0o700
_TIME = (1_000_000_000, 1_000_000_000)  # nanoseconds: atime and mtime 1, as Nix has it


class Restorer:
    """Builds one tree under a name of its own."""

    def __init__(self, parent_fd: int, name: bytes) -> None:
        """Build `name` in the directory `parent_fd`, which stays the caller's."""
        self._name = name
        self._descent = Descent(parent_fd)
        self._file = -1
        # A umask that takes read or execute bits away would spoil the mode at creation.
        self._repair_modes = bool(_umask() & _PROGRAM)
        self._mode = _FILE
        self._steps: dict[type[Event], Callable[..., None]] = {
            Contents: self._write,
            Regular: self._create,
            End: self._close,
            Directory: self._enter,
            Symlink: self._link,
        }

    def apply(self, event: Event) -> None:
        """Make what `event` says.

        Raises:
            DiskError: the disk refused, or the name is taken.
        """
        try:
            self._steps[type(event)](event)
        except OSError as error:
            name = getattr(event, "name", b"") or self._name
            raise disk_error(error, os.fsdecode(name)) from error

    def close(self) -> None:
        """Let go of open files, of a tree that is complete or not."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._descent.close()

    def _create(self, event: Regular) -> None:
        self._mode = _PROGRAM if event.executable else _FILE
        self._file = os.open(event.name or self._name, _CREATE, self._mode, dir_fd=self._descent.fd)

    def _write(self, event: Contents) -> None:
        data = event.data
        written = os.write(self._file, data)
        while written < len(data):
            written += os.write(self._file, data[written:])

    def _close(self, _: End) -> None:
        if self._file < 0:
            os.fchmod(self._descent.fd, _DIRECTORY)
            os.utime(self._descent.fd, ns=_TIME)
            self._descent.leave()
            return
        file, self._file = self._file, -1
        try:
            if self._repair_modes:
                os.fchmod(file, self._mode)
            os.utime(file, ns=_TIME)
        finally:
            os.close(file)

    def _enter(self, event: Directory) -> None:
        name = event.name or self._name
        os.mkdir(name, _PRIVATE, dir_fd=self._descent.fd)
        self._descent.enter(name)

    def _link(self, event: Symlink) -> None:
        name = event.name or self._name
        os.symlink(event.target, name, dir_fd=self._descent.fd)
        os.utime(name, ns=_TIME, dir_fd=self._descent.fd, follow_symlinks=False)


def _umask() -> int:
    """The umask of this process, read without changing it (other threads create files)."""
    try:
        status = Path("/proc/self/status").read_text("ascii", "replace")
    except OSError:  # no /proc: take the worst
        return 0o777
    found = re.search(r"^Umask:\s*([0-7]+)", status, re.MULTILINE)
    return int(found[1], 8) if found else 0o777
