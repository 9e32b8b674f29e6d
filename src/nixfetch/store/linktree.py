"""A second place for a tree: directories made anew, files and links linked. No data is copied.

The twin shows what the tree shows, and shares every inode but those of directories. Whoever could
write to one would write to the other: it is for readers, such as a lower layer of overlayfs, which
copies a file before anybody changes it.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

from nixfetch.store.descent import Descent
from nixfetch.store.dump import UnsupportedFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger(__name__)
Link = Callable[[bytes, int, int], None]
"""Gives a file in one directory, by name, the same name in another one."""
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_MODE = 0o700  # of a directory that is being filled
_CHUNK = 1 << 20  # bytes copied at a time


def _hard_link(name: bytes, from_fd: int, to_fd: int) -> None:
    os.link(name, name, src_dir_fd=from_fd, dst_dir_fd=to_fd, follow_symlinks=False)


def link_tree(name: bytes, from_fd: int, to_fd: int, *, link: Link = _hard_link) -> None:
    """Give the tree `name` of one directory the same name in another one.

    Follows no link. A file that has as many names as the file system allows is copied, and a
    symbolic link that cannot be linked is made anew; so is every directory, with the modes and
    times that are there.

    Args:
        name: of the tree, in both directories.
        from_fd: where it is.
        to_fd: where nothing is called so, on the same file system.
        link: gives one file its second name.

    Raises:
        OSError: something cannot be read, linked or made; EXDEV: another file system. What was
            made by then stays.
        UnsupportedFileError: something is no file, directory or symbolic link.
    """
    mode = os.stat(name, dir_fd=from_fd, follow_symlinks=False).st_mode
    if not stat.S_ISDIR(mode):
        _check(name, is_fit=stat.S_ISREG(mode) or stat.S_ISLNK(mode))
        _link(name, from_fd, to_fd, link)
        return
    with Descent(from_fd) as source, Descent(to_fd) as twin:
        pending = [_entered(name, source, twin, link)]
        while pending:
            if (below := next(pending[-1], None)) is not None:
                pending.append(_entered(below, source, twin, link))
                continue
            pending.pop()
            _finish(source.fd, twin.fd)
            source.leave()
            twin.leave()


def _entered(name: bytes, source: Descent, twin: Descent, link: Link) -> Iterator[bytes]:
    """Go into a directory, link what is in it; what is left are its directories."""
    os.mkdir(name, _OPEN_MODE, dir_fd=twin.fd)
    source.enter(name)
    twin.enter(name)
    directories: list[bytes] = []
    with os.scandir(source.fd) as entries:
        for entry in entries:
            below = os.fsencode(entry.name)
            if entry.is_dir(follow_symlinks=False):
                directories.append(below)
            else:
                is_fit = entry.is_file(follow_symlinks=False) or entry.is_symlink()
                _check(below, is_fit=is_fit)
                _link(below, source.fd, twin.fd, link)
    return iter(directories)


def _check(name: bytes, *, is_fit: bool) -> None:
    if not is_fit:
        raise UnsupportedFileError(
            "file is no regular file, directory or symbolic link", file=os.fsdecode(name)
        )


def _link(name: bytes, from_fd: int, to_fd: int, link: Link) -> None:
    try:
        link(name, from_fd, to_fd)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise
        status = os.stat(name, dir_fd=from_fd, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            _make_link(name, from_fd, to_fd, status)
        elif stat.S_ISREG(status.st_mode) and error.errno == errno.EMLINK:
            _log.info("%s has as many names as it can have, and is copied", os.fsdecode(name))
            _copy(name, from_fd, to_fd, status)
        else:
            raise


def _make_link(name: bytes, from_fd: int, to_fd: int, status: os.stat_result) -> None:
    os.symlink(os.readlink(name, dir_fd=from_fd), name, dir_fd=to_fd)
    os.utime(name, ns=_times(status), dir_fd=to_fd, follow_symlinks=False)


def _copy(name: bytes, from_fd: int, to_fd: int, status: os.stat_result) -> None:
    source = os.open(name, _READ, dir_fd=from_fd)
    try:
        copy = os.open(name, _MAKE, 0o600, dir_fd=to_fd)
        try:
            while os.sendfile(copy, source, None, _CHUNK):
                pass
            os.fchmod(copy, stat.S_IMODE(status.st_mode))
            os.utime(copy, ns=_times(status))
            os.fsync(copy)
        finally:
            os.close(copy)
    finally:
        os.close(source)


def _finish(from_fd: int, to_fd: int) -> None:
    """Give a directory that is full the mode and times of the one it was made after."""
    status = os.fstat(from_fd)
    os.fchmod(to_fd, stat.S_IMODE(status.st_mode))
    os.utime(to_fd, ns=_times(status))


def _times(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_mtime_ns
