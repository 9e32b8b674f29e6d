"""Content-addressed files: equal files of a store are one inode, by Nix's own names.

    ROOT/nix/store/.links/<nix32 of the SHA-256 of the NAR of the file alone>

The mode is part of such a NAR, so a program and a plain file with the same bytes are two. What
is linked must look as we would have made it (kind, size, mode, owner), and is read before its
name is believed: a file that went bad on disk is bad in every path that shares it, and must not
get into one more. An entry that is not what its name says is removed, its other links stay.
Every failure of linking only costs space: the file is written as if there were no links.
Regular files, empty ones too, and symbolic links.

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
from nixfetch.store.disk import disk_errors
from nixfetch.store.dump import UnsupportedFileError

if TYPE_CHECKING:
    from nixfetch.formats.hashes import Hasher

_log = logging.getLogger(__name__)
NAME = ".links"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # of a pipe: at once
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
        return Entry(_file_name(dir_fd, name), status)
    return None


def content_name(dir_fd: int, name: str) -> str:
    """What the file or link `name` should be called in ``.links``.

    Raises:
        DiskError: it cannot be read.
        UnsupportedFileError: it is neither.
    """
    with disk_errors(name):
        mode = os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            return symlink_name(os.readlink(name.encode(), dir_fd=dir_fd))
        if stat.S_ISREG(mode):
            return _file_name(dir_fd, name.encode())
    raise UnsupportedFileError(
        "neither a file nor a symbolic link", file=name, kind=f"{stat.S_IFMT(mode):#o}"
    )


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
        os.mkdir(NAME, 0o755, dir_fd=store_fd)
    return os.open(NAME, _DIRECTORY, dir_fd=store_fd)


class Links:
    """The ``.links`` of one store. Safe to share among threads and processes."""

    def __init__(self, fd: int, *, repairing: bool = False) -> None:
        """Use the directory `fd`, which stays the caller's.

        Args:
            fd: the directory.
            repairing: bad entries are what is expected, and no reason for a warning.
        """
        self.fd = fd
        self._repairing = repairing
        self._owner = os.geteuid()

    def take_file(self, name: str, shape: Shape, *, dir_fd: int, target: bytes) -> bool:
        """Make `target` in `dir_fd` one more link of the file `name`, if there is a good one.

        Returns:
            Whether it was made. If not, `target` is as it was.

        Raises:
            FileExistsError: `target` is there.
        """
        if not self._is_ours(name):
            return False
        if not self._is_good(name, shape):
            self._drop(name)
            return False
        return self._link(name, dir_fd, target)

    def take_symlink(self, name: str, goal: bytes, *, dir_fd: int, target: bytes) -> bool:
        """The same for a symbolic link to `goal`."""
        if not self._is_ours(name):
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

    def _is_ours(self, name: str) -> bool:
        """Whether there is such an entry, of this user."""
        try:
            status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return status.st_uid == self._owner

    def _is_good(self, name: str, shape: Shape) -> bool:
        """Whether a file is what its name says, and looks as `shape` does in a store."""
        try:
            fd = os.open(name, _READ, dir_fd=self.fd)
        except OSError as error:
            _log.info("cannot read .links/%s: %s", name, error)
            return False
        try:
            status = os.fstat(fd)
            if (status.st_mode, status.st_size) != (stat.S_IFREG | shape.mode, shape.size):
                return False
            return _name_of(fd, shape) == name
        except OSError as error:  # a bad sector
            _log.info("cannot read .links/%s: %s", name, error)
            return False
        finally:
            os.close(fd)

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
        if not self._repairing:
            _log.warning(
                "removing .links/%s: it is not what its name says;"
                " `nixfetch verify --all --repair` mends the paths that share it",
                name,
            )
        with suppress(FileNotFoundError, PermissionError, IsADirectoryError):
            os.unlink(name, dir_fd=self.fd)


def _file_name(dir_fd: int, name: bytes) -> str:
    """The name that the content of a regular file has."""
    fd = os.open(name, _READ, dir_fd=dir_fd)
    try:
        status = os.fstat(fd)
        return _name_of(fd, Shape(status.st_size, bool(status.st_mode & stat.S_IXUSR)))
    finally:
        os.close(fd)


def _name_of(fd: int, shape: Shape) -> str:
    hasher = shape.hasher()
    while data := os.read(fd, _CHUNK):
        hasher.update(data)
    return shape.name(hasher)
