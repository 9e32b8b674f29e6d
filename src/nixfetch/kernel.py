"""Linux calls that Python 3.11 lacks. Knows nothing of stores."""

from __future__ import annotations

import ctypes
import errno
import os
from enum import IntFlag
from functools import cache

_RANGE_WRITE = 2  # linux/fs.h, SYNC_FILE_RANGE_WRITE
_NOREPLACE, _EXCHANGE = 1, 2  # linux/fs.h, RENAME_NOREPLACE, RENAME_EXCHANGE
_DETACH = 2  # linux/fs.h, MNT_DETACH
# What a kernel or file system answers to flags that it does not know. The names that are given
# here are single ones, so EINVAL does not mean "into itself".
_UNKNOWN = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class MountFlag(IntFlag):
    """What `mount` takes. Source: linux/mount.h."""

    RDONLY = 1
    NOSUID = 2
    NODEV = 4
    NOEXEC = 8
    REMOUNT = 32
    BIND = 4096
    MOVE = 8192
    REC = 16384
    UNBINDABLE = 1 << 17
    SLAVE = 1 << 19


class Namespace(IntFlag):
    """What `unshare` takes. Source: linux/sched.h."""

    MOUNT = 0x00020000
    USER = 0x10000000


class UnsupportedError(OSError):
    """This file system cannot do that; another way has to be found."""


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def syncfs(fd: int) -> None:
    """Write all dirty data of the file system that `fd` lies on to its disk.

    Raises:
        OSError: the disk refused; what was written since the last good call may be lost.
    """
    if _libc().syncfs(fd) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def start_writing(fd: int, offset: int, size: int) -> None:
    """Have the kernel begin to write dirty pages of a file to its disk; waits for nothing.

    Promises nothing either: a file system that cannot is no error. It only makes a later
    `syncfs` short.

    Args:
        fd: the file.
        offset: bytes before the range.
        size: bytes of the range.
    """
    call = getattr(_libc(), "sync_file_range", None)
    if call is not None:
        call(fd, ctypes.c_int64(offset), ctypes.c_int64(size), ctypes.c_uint(_RANGE_WRITE))


def rename_noreplace(source: bytes, target: bytes, *, src_dir_fd: int, dst_dir_fd: int) -> None:
    """Rename, unless `target` is there already.

    Args:
        source: a single name in `src_dir_fd`.
        target: a single name in `dst_dir_fd`.
        src_dir_fd: a directory.
        dst_dir_fd: a directory.

    Raises:
        FileExistsError: it is; nothing was changed.
        UnsupportedError: the file system has no such call; nothing was changed.
        OSError: as `os.rename`.
    """
    _renameat2(src_dir_fd, source, dst_dir_fd, target, _NOREPLACE)


def rename_exchange(one: bytes, other: bytes, *, dir_fd: int) -> None:
    """Let two names in `dir_fd`, of files of any kind, change places in one step.

    Raises:
        UnsupportedError: the file system has no such call; nothing was changed.
        OSError: as `os.rename`; both must be there.
    """
    _renameat2(dir_fd, one, dir_fd, other, _EXCHANGE)


def _renameat2(src_dir_fd: int, source: bytes, dst_dir_fd: int, target: bytes, flags: int) -> None:
    call = getattr(_libc(), "renameat2", None)  # glibc 2.28, musl 1.2.5
    if call is None:  # pragma: no cover - an old C library
        raise UnsupportedError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(src_dir_fd, source, dst_dir_fd, target, ctypes.c_uint(flags)) == 0:
        return
    error = ctypes.get_errno()
    if error in _UNKNOWN:
        raise UnsupportedError(error, os.strerror(error))
    raise OSError(error, os.strerror(error), os.fsdecode(source), None, os.fsdecode(target))


def unshare(namespaces: Namespace) -> None:
    """Give this process namespaces of its own.

    Raises:
        OSError: EPERM: it may not; ENOSPC: there are too many; EINVAL: the kernel has none, or a
            user namespace was asked for by a process of several threads.
    """
    _check(_libc().unshare(ctypes.c_int(namespaces)))


def mount(
    source: bytes | None,
    target: bytes,
    flags: MountFlag,
    *,
    filesystem: bytes | None = None,
    data: bytes | None = None,
) -> None:
    """Put something into the tree of files, or change how it is there.

    Args:
        source: what; None where only flags are changed.
        target: where.
        flags: how.
        filesystem: its type, for new ones.
        data: options of that type.

    Raises:
        OSError: as mount(2); `filename` is the target.
    """
    result = _libc().mount(source, target, filesystem, ctypes.c_ulong(flags), data)
    _check(result, os.fsdecode(target))


def unmount(target: bytes) -> None:
    """Take a mount off, now for names and when nobody uses it for good.

    Raises:
        OSError: as umount2(2) with MNT_DETACH; `filename` is the target.
    """
    _check(_libc().umount2(target, _DETACH), os.fsdecode(target))


def pivot_root(new: bytes, old: bytes) -> None:
    """Make the mount at `new` the root directory, and put the old one at `old`.

    Raises:
        UnsupportedError: the root directory is not a mount, as in a chroot, or is the first
            one that the kernel had.
        OSError: as pivot_root(2).
    """
    call = getattr(_libc(), "pivot_root", None)  # glibc and musl have it, and no header says so
    if call is None:  # pragma: no cover - another C library
        raise UnsupportedError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(new, old) != 0:
        error = ctypes.get_errno()
        kind = UnsupportedError if error in _UNKNOWN else OSError
        raise kind(error, os.strerror(error), os.fsdecode(new))


def _check(result: int, file: str | None = None) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), file)
