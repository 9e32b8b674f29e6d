"""From the events of a NAR to files: the one place that creates what an archive names.

Everything is made relative to a directory descriptor, exclusively and without following
links, in its final mode and with mtime 1, in four system calls a file (open, write, utimensat,
close). A directory is private (0700) until it is complete.

With `Offers`, what is there already under the same content becomes a link. A file of up to
`_SMALL` bytes is held back until its content is known, so that it is linked and never written;
a larger one is written first, and gives way to the link then.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from nixfetch import kernel
from nixfetch.formats.nar import Contents, Directory, End, Event, Regular, Symlink
from nixfetch.store.descent import Descent
from nixfetch.store.disk import DiskError, disk_error
from nixfetch.store.links import PROGRAM_MODE, Shape, symlink_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from nixfetch.formats.hashes import Hasher
    from nixfetch.store.offers import Offers

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = 0o555
_PRIVATE = 0o700
_TIME = (1_000_000_000, 1_000_000_000)  # nanoseconds: atime and mtime 1, as Nix has it
_AHEAD = 8 * 1024 * 1024  # bytes of a large file after which the disk may begin with them
_SMALL = 1024 * 1024  # bytes; as many are held in memory by each path that is being unpacked


class NameCollisionError(DiskError):
    """The file system takes two names of a tree for one, as a case-insensitive one does."""


class Restorer:
    """Builds one tree under a name of its own."""

    def __init__(self, parent_fd: int, name: bytes, *, links: Offers | None = None) -> None:
        """Build `name` in the directory `parent_fd`, which stays the caller's.

        Args:
            parent_fd: the directory.
            name: the name there.
            links: where to look for what is there already, and to leave what is new.
        """
        self._name = name
        self._links = links
        self._descent = Descent(parent_fd)
        # Either may take read or execute bits away from the mode at creation.
        self._repair_modes = bool(_umask() & PROGRAM_MODE) or _has_default_acl(parent_fd)
        self._open: _File | None = None
        self.saved = 0
        """Bytes of files that were linked instead of kept."""
        self._steps: dict[type[Event], Callable[..., None]] = {
            Contents: self._write,
            Regular: self._begin,
            End: self._end,
            Directory: self._enter,
            Symlink: self._link,
        }

    def apply(self, event: Event) -> None:
        """Make what `event` says.

        Raises:
            DiskError: the disk refused, or the name is taken.
            NameCollisionError: a name within the tree is taken.
        """
        # A small file is made at its end.
        name = getattr(event, "name", b"") or (self._open.name if self._open else b"")
        try:
            self._steps[type(event)](event)
        except OSError as error:
            if error.errno == errno.EEXIST and name not in {b"", self._name}:
                raise _collision(name) from error
            raise disk_error(error, os.fsdecode(name or self._name)) from error

    def close(self) -> None:
        """Let go of open files, of a tree that is complete or not."""
        if self._open is not None:
            self._open.close()
            self._open = None
        self._descent.close()

    def _begin(self, event: Regular) -> None:
        file = _File(event.name or self._name, Shape(event.size, event.executable))
        if self._links is not None:
            file.hasher = file.shape.hasher()
        if file.hasher is None or event.size > _SMALL:
            file.create(self._descent.fd)
        self._open = file

    def _write(self, event: Contents) -> None:
        assert self._open is not None
        self._open.write(event.data)

    def _end(self, _: End) -> None:
        file, self._open = self._open, None
        if file is None:
            os.fchmod(self._descent.fd, _DIRECTORY)
            os.utime(self._descent.fd, ns=_TIME)
            self._descent.leave()
            return
        try:
            self._finish(file)
        finally:
            file.close()

    def _finish(self, file: _File) -> None:
        directory, links = self._descent.fd, self._links
        if links is None or file.hasher is None:
            file.seal(repair_mode=self._repair_modes)
            return
        content = file.shape.name(file.hasher)
        size = file.shape.size
        if file.fd < 0:
            if links.take_file(content, file.shape, dir_fd=directory, target=file.name):
                self.saved += size
                return
            file.create(directory)
        file.seal(repair_mode=self._repair_modes)
        if size > _SMALL and links.replace_file(
            content, file.shape, dir_fd=directory, target=file.name
        ):
            self.saved += size
            return
        given = links.give(content, dir_fd=directory, source=file.name)
        if not given and links.replace_file(
            content, file.shape, dir_fd=directory, target=file.name
        ):
            self.saved += size

    def _enter(self, event: Directory) -> None:
        name = event.name or self._name
        os.mkdir(name, _PRIVATE, dir_fd=self._descent.fd)
        self._descent.enter(name)

    def _link(self, event: Symlink) -> None:
        name, directory = event.name or self._name, self._descent.fd
        content = None
        if self._links is not None:
            content = symlink_name(event.target)
            if self._links.take_symlink(content, event.target, dir_fd=directory, target=name):
                return
        os.symlink(event.target, name, dir_fd=directory)
        os.utime(name, ns=_TIME, dir_fd=directory, follow_symlinks=False)
        if self._links is None or content is None:
            return
        if not self._links.give(content, dir_fd=directory, source=name):
            self._links.replace_symlink(content, event.target, dir_fd=directory, target=name)


class _File:
    """The file that is being made: held in memory until `create`."""

    __slots__ = ("_held", "_started", "_written", "fd", "hasher", "name", "shape")

    def __init__(self, name: bytes, shape: Shape) -> None:
        self.name = name
        self.shape = shape
        self.hasher: Hasher | None = None
        self.fd = -1
        self._held: list[memoryview] = []
        self._written = self._started = 0  # bytes in the page cache, and sent on to the disk

    def create(self, dir_fd: int) -> None:
        """Make it in the directory `dir_fd`, with what is held."""
        self.fd = os.open(self.name, _CREATE, self.shape.mode, dir_fd=dir_fd)
        held, self._held = self._held, []
        for data in held:
            _write_all(self.fd, data)

    def write(self, data: memoryview) -> None:
        """Take the next bytes."""
        if self.hasher is not None:
            self.hasher.update(data)
        if self.fd < 0:
            self._held.append(data)
            return
        _write_all(self.fd, data)
        self._written += len(data)
        if self._written - self._started >= _AHEAD:
            kernel.start_writing(self.fd, self._started, self._written - self._started)
            self._started = self._written

    def seal(self, *, repair_mode: bool) -> None:
        """Give it its final mode and time, and close it."""
        if repair_mode:
            os.fchmod(self.fd, self.shape.mode)
        os.utime(self.fd, ns=_TIME)
        self.close()

    def close(self) -> None:
        """Close it if it is open."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


def _collision(name: bytes) -> NameCollisionError:
    # Names in an archive differ, and the directory was empty.
    return NameCollisionError(
        "this file system takes two different names for one",
        hint="keep the store where upper and lower case are different (--store)",
        file=os.fsdecode(name),
        errno=errno.errorcode[errno.EEXIST],
    )


def _write_all(fd: int, data: memoryview) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])


def _has_default_acl(directory_fd: int) -> bool:
    """Whether files get their access rights from the directory that they are made in."""
    try:
        return "system.posix_acl_default" in os.listxattr(directory_fd)
    except OSError:  # no such attributes on this file system
        return False


def _umask() -> int:
    """The umask of this process, read without changing it (other threads create files)."""
    try:
        status = Path("/proc/self/status").read_text("ascii", "replace")
    except OSError:  # no /proc: take the worst
        return 0o777
    found = re.search(r"^Umask:\s*([0-7]+)", status, re.MULTILINE)
    return int(found[1], 8) if found else 0o777
