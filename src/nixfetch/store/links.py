"""Content-addressed files: equal files of a store are one inode, by Nix's own names.

    ROOT/nix/store/.links/<nix32 of the SHA-256 of the NAR of the file alone>

The mode is part of such a NAR, so a program and a plain file with the same bytes are two. What
is linked must look as we would have made it (kind, size, mode, owner); an entry that does not
is removed, its other links stay. Every failure of linking only costs space: the file is
written as if there were no links. Regular files, empty ones too, and symbolic links.

Source: nix, src/libstore/optimise-store.cc, `LocalStore::optimisePath_`.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from nixfetch import kernel
from nixfetch.formats import base32
from nixfetch.formats.nar import wire

if TYPE_CHECKING:
    from nixfetch.formats.hashes import Hasher

_log = logging.getLogger(__name__)
_NAME = ".links"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 256 * 1024  # bytes read at a time
FILE_MODE, PROGRAM_MODE = 0o444, 0o555
# What linking may fail with for reasons of the file system, not of ours: too many links of one
# inode, another file system (as between the layers of overlayfs), links forbidden, no room in
# the directory, gone meanwhile.
TOLERATED = frozenset(
    {errno.EMLINK, errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.ENOENT}
)


class Shape(NamedTuple):
    """What a regular file is, but for its contents."""

    size: int
    """Bytes."""
    executable: bool

    @property
    def mode(self) -> int:
        """As it has to be in a store."""
        return PROGRAM_MODE if self.executable else FILE_MODE

    def hasher(self) -> Hasher:
        """Begin the hash that names a file: feed it the contents, then ask `name`."""
        token = wire.EXECUTABLE if self.executable else wire.REGULAR
        return hashlib.sha256(wire.MAGIC + token + self.size.to_bytes(wire.LENGTH, "little"))

    def name(self, hasher: Hasher) -> str:
        """The name of the file whose contents `hasher` has seen."""
        hasher.update(bytes(wire.padding(self.size)) + wire.CLOSE)
        return base32.encode(hasher.digest())


class Entry(NamedTuple):
    """What a file is called by its content, and which inode it is."""

    name: str
    status: os.stat_result

    def remove_from(self, links_fd: int) -> bool:
        """Remove it from a directory of such entries, if it is in there; whether it was."""
        try:
            if not os.path.samestat(
                os.stat(self.name, dir_fd=links_fd, follow_symlinks=False), self.status
            ):
                return False
            os.unlink(self.name, dir_fd=links_fd)
        except FileNotFoundError:
            return False
        return True


def sole_entry(dir_fd: int, name: bytes) -> Entry | None:
    """The entry that a file of a tree would have, if that is its only other link.

    Args:
        dir_fd: the directory of the file.
        name: the file, a link, or a directory, which has none.
    """
    status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    if status.st_nlink != 2:  # noqa: PLR2004 - itself and its entry; more: others use it
        return None
    if stat.S_ISLNK(status.st_mode):
        return Entry(symlink_name(os.readlink(name, dir_fd=dir_fd)), status)
    if stat.S_ISREG(status.st_mode):
        return Entry(_content_of(dir_fd, name, status), status)
    return None


def symlink_name(target: bytes) -> str:
    """The name of a symbolic link to `target`."""
    nar = wire.MAGIC + wire.SYMLINK + wire.string(target) + wire.CLOSE
    return base32.encode(hashlib.sha256(nar).digest())


def open_links(store_fd: int) -> int:
    """Open ``.links`` in the store directory `store_fd`; make it when it is missing.

    Raises:
        OSError: it cannot be.
    """
    with suppress(FileExistsError):
        os.mkdir(_NAME, 0o755, dir_fd=store_fd)
    return os.open(_NAME, _DIRECTORY, dir_fd=store_fd)


class Links:
    """The ``.links`` of one store. Safe to share among threads and processes."""

    _dropping = logging.WARNING
    """How loud it is about a bad entry: nobody asked for one."""

    def __init__(self, fd: int) -> None:
        """Use the directory `fd`, which stays the caller's."""
        self.fd = fd
        self._owner = os.geteuid()

    def take_file(self, name: str, shape: Shape, *, dir_fd: int, target: bytes) -> bool:
        """Make `target` in `dir_fd` one more link of the file `name`, if there is a good one.

        Returns:
            Whether it was made. If not, `target` is as it was.

        Raises:
            FileExistsError: `target` is there.
        """
        status = self._status(name)
        if status is None or status.st_uid != self._owner:
            return False
        if (stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode), status.st_size) != (
            stat.S_IFREG,
            shape.mode,
            shape.size,
        ):
            self._drop(name)
            return False
        return self._link(name, dir_fd, target)

    def take_symlink(self, name: str, goal: bytes, *, dir_fd: int, target: bytes) -> bool:
        """The same for a symbolic link to `goal`."""
        status = self._status(name)
        if status is None or status.st_uid != self._owner:
            return False
        try:
            found = os.readlink(name.encode(), dir_fd=self.fd)
        except OSError:
            found = None
        if found != goal:
            self._drop(name)
            return False
        return self._link(name, dir_fd, target)

    def publish(self, name: str, source_fd: int) -> None:
        """Move the entry `name` of the directory `source_fd` here, unless there is one.

        Raises:
            OSError: for reasons that are not the file system's; where they are, it stays there.
        """
        try:
            kernel.rename_noreplace(
                name.encode(), name.encode(), src_dir_fd=source_fd, dst_dir_fd=self.fd
            )
        except FileExistsError:
            return
        except kernel.UnsupportedError:
            with suppress(FileExistsError):
                os.link(name, name, src_dir_fd=source_fd, dst_dir_fd=self.fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in TOLERATED:
                raise

    def withdraw(self, entry: Entry) -> bool:
        """Take back the entry of a file that goes before it was ever used; whether it was here.

        Without it, the parts of archives that turn out bad would pile up.
        """
        return entry.remove_from(self.fd)

    def _status(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _link(self, name: str, dir_fd: int, target: bytes) -> bool:
        try:
            os.link(name, target, src_dir_fd=self.fd, dst_dir_fd=dir_fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in TOLERATED:
                raise
            return False
        return True

    def _drop(self, name: str) -> None:
        """Forget an entry that is not what its name says."""
        _log.log(self._dropping, "removing .links/%s: it is not what its name says", name)
        with suppress(FileNotFoundError, PermissionError):
            os.unlink(name, dir_fd=self.fd)


def _content_of(dir_fd: int, name: bytes, status: os.stat_result) -> str:
    """The name that the content of a regular file has."""
    shape = Shape(status.st_size, bool(status.st_mode & stat.S_IXUSR))
    hasher = shape.hasher()
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        while data := os.read(fd, _CHUNK):
            hasher.update(data)
    finally:
        os.close(fd)
    return shape.name(hasher)
