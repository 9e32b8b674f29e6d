"""From files to the events of a NAR: the inverse of `restore`."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from nixfetch.errors import StoreError
from nixfetch.formats.nar import Contents, Directory, End, Event, Regular, Symlink
from nixfetch.store.descent import Descent
from nixfetch.store.disk import disk_error

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 256 * 1024  # bytes read at a time
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_END = End()


class UnsupportedFileError(StoreError):
    """A device, a socket or a pipe: no NAR can hold it."""


class ChangedFileError(StoreError):
    """A file changed its size while it was read."""


def dump(parent_fd: int, name: bytes) -> Iterator[Event]:
    """The events of the NAR of `name` in the directory `parent_fd`.

    Follows no symbolic link, takes an x bit of the owner for "executable", and ignores all
    other modes, owners and times. `Regular.offset` is not known here and given as 0.

    Raises:
        DiskError: something cannot be read.
        UnsupportedFileError: something is no file, directory or symbolic link.
        ChangedFileError: a file grew or shrank meanwhile.

    Source: nix, src/libutil/archive.cc, `SourceAccessor::dumpPath`.
    """
    with Descent(parent_fd) as descent:
        yield from _node(descent, name, b"")
        pending: list[list[bytes]] = []
        if descent.depth:
            pending.append(_names(descent, name))
        while pending:
            if not pending[-1]:
                pending.pop()
                _leave(descent, name)
                yield _END
                continue
            entry = pending[-1].pop()
            yield from _node(descent, entry, entry)
            if descent.depth > len(pending):
                pending.append(_names(descent, entry))


def _node(descent: Descent, file: bytes, name: bytes) -> Iterator[Event]:
    """The events of one entry; a directory is entered, its own entries are still to come."""
    fd = -1
    try:
        status = os.stat(file, dir_fd=descent.fd, follow_symlinks=False)
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            descent.enter(file)
            event: Event = Directory(name)
        elif stat.S_ISLNK(mode):
            event = Symlink(name, os.readlink(file, dir_fd=descent.fd))
        elif stat.S_ISREG(mode):
            fd = os.open(file, _OPEN, dir_fd=descent.fd)
            event = Regular(name, status.st_size, bool(mode & stat.S_IXUSR), 0)
        else:
            raise UnsupportedFileError(
                "file is no regular file, directory or symbolic link", file=os.fsdecode(file)
            )
    except OSError as error:
        raise disk_error(error, os.fsdecode(file)) from error
    try:
        yield event
        if isinstance(event, Regular):
            yield from _contents(fd, event.size, file)
            yield _END
    finally:
        if fd >= 0:
            os.close(fd)


def _contents(fd: int, size: int, file: bytes) -> Iterator[Contents]:
    left = size
    while left:
        data = _read(fd, min(CHUNK, left), file)
        if not data:
            raise ChangedFileError("file shrank while it was read", file=os.fsdecode(file))
        left -= len(data)
        yield Contents(memoryview(data))
    if _read(fd, 1, file):
        raise ChangedFileError("file grew while it was read", file=os.fsdecode(file))


def _read(fd: int, size: int, file: bytes) -> bytes:
    try:
        return os.read(fd, size)
    except OSError as error:
        raise disk_error(error, os.fsdecode(file)) from error


def _names(descent: Descent, directory: bytes) -> list[bytes]:
    """Entries of the current directory, the last first."""
    try:
        names = list(map(os.fsencode, os.listdir(descent.fd)))  # noqa: PTH208 - a descriptor
    except OSError as error:
        raise disk_error(error, os.fsdecode(directory)) from error
    names.sort(reverse=True)
    return names


def _leave(descent: Descent, name: bytes) -> None:
    try:
        descent.leave()
    except OSError as error:
        raise disk_error(error, os.fsdecode(name)) from error
