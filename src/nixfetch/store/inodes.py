"""Files that several names share, as deduplication makes them: who else has a bad one.

Knows nothing of what is good: it compares a tree that is not with one that is.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeAlias

from nixfetch.store.descent import Descent
from nixfetch.store.walk import walk

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

Inode: TypeAlias = tuple[int, int]
"""Device and number."""
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CHUNK = 256 * 1024  # bytes read at a time


def bad_inodes(directory_fd: int, bad: bytes, good: bytes) -> dict[Inode, int]:
    """Shared files of the tree `bad` that are not what they are in the tree `good`.

    Returns:
        For each: how many names it has outside of `bad`. Names in ``.links`` count, and so do
        those that are not in the store at all.

    Raises:
        OSError: something cannot be read.
    """
    outside: dict[Inode, int] = {}
    with Descent(directory_fd) as at, Descent(directory_fd) as beside:
        pending = [[(bad, good)]]
        while pending:
            if not pending[-1]:
                pending.pop()
                if pending:
                    at.leave()
                    beside.leave()
                continue
            entry, counterpart = pending[-1].pop()
            status, wanted = _status(at.fd, entry), _status(beside.fd, counterpart)
            if status is None or wanted is None:
                continue
            if stat.S_ISDIR(status.st_mode):
                if stat.S_ISDIR(wanted.st_mode):
                    at.enter(entry)
                    beside.enter(counterpart)
                    names = map(os.fsencode, os.listdir(at.fd))  # noqa: PTH208 - a descriptor
                    pending.append([(name, name) for name in names])
            elif status.st_nlink > 1 and not _same(
                (at.fd, entry, status), (beside.fd, counterpart, wanted)
            ):
                inode = status.st_dev, status.st_ino
                outside[inode] = outside.get(inode, status.st_nlink) - 1
    return outside


def has_any(directory_fd: int, name: bytes, inodes: Collection[Inode]) -> bool:
    """Whether a file of the tree `name` is one of `inodes`.

    Raises:
        OSError: something cannot be read, or there is no such tree.
    """
    return any(
        (visit.status.st_dev, visit.status.st_ino) in inodes for visit in walk(directory_fd, name)
    )


def _status(directory_fd: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


_File: TypeAlias = tuple[int, bytes, os.stat_result]


def _same(one: _File, other: _File) -> bool:
    (one_fd, one_name, was), (other_fd, other_name, wanted) = one, other
    if (was.st_dev, was.st_ino) == (wanted.st_dev, wanted.st_ino):
        return True
    x_bit = stat.S_IXUSR
    if stat.S_IFMT(was.st_mode) != stat.S_IFMT(wanted.st_mode) or was.st_size != wanted.st_size:
        return False
    if stat.S_ISLNK(was.st_mode):
        return os.readlink(one_name, dir_fd=one_fd) == os.readlink(other_name, dir_fd=other_fd)
    return was.st_mode & x_bit == wanted.st_mode & x_bit and _same_contents(one, other)


def _same_contents(one: _File, other: _File) -> bool:
    """False also when one cannot be read: a bad disk may be why we are here."""
    with ExitStack() as stack:
        try:
            one_fd, other_fd = (stack.enter_context(_opened(file)) for file in (one, other))
            while (data := os.read(one_fd, _CHUNK)) == os.read(other_fd, _CHUNK):
                if not data:
                    return True
        except OSError:
            pass
    return False


@contextmanager
def _opened(file: _File) -> Iterator[int]:
    directory_fd, name, _ = file
    fd = os.open(name, _OPEN, dir_fd=directory_fd)
    try:
        yield fd
    finally:
        os.close(fd)
