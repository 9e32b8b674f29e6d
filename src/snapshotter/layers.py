"""The directories of snapshots.

    ROOT/snapshots/ID/fs      what the layer holds, or what a container has written
    ROOT/snapshots/ID/work    overlayfs' own, of an active snapshot
    ROOT/snapshots/ID/farm    a link to the first of its lower layers, where that lies elsewhere
    ROOT/removed/ID           nobody's; deleted when there is time

Ids are ours, and never used twice: no name that somebody chose is ever part of a path. What a
layer holds was written by its author: nothing below ``fs`` is opened through a link.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from snapshotter import owned
from snapshotter.errors import InternalError, PreconditionError
from snapshotter.lifecycle import Kind, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

BLOCK = 512  # bytes; what st_blocks counts in
STORE = ("nix", "store")
"""Where store paths belong below the root of a container."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ID = re.compile(r"[0-9]+", re.ASCII)
_NO_DIRECTORY = frozenset({errno.ELOOP, errno.ENOTDIR})


class LayerError(InternalError):
    """The directories of a snapshot cannot be made or read."""


class Layers:
    """The directories of all snapshots of one root."""

    def __init__(self, root: Path) -> None:
        """Make what is missing.

        Args:
            root: a directory.

        Raises:
            NotOursError: one of them is a link, or somebody else's, or cannot be made.
        """
        self._live, self._removed = root / "snapshots", root / "removed"
        for directory in (self._live, self._removed):
            owned.claim(directory)

    def upper(self, id_: int) -> str:
        """What the layer holds."""
        return f"{self._live}/{id_}/fs"

    def work(self, id_: int) -> str:
        """Overlayfs' own."""
        return f"{self._live}/{id_}/work"

    def farm(self, id_: int) -> str:
        """The link that `link_farm` makes."""
        return f"{self._live}/{id_}/farm"

    def make(self, id_: int, kind: Kind, *, parent: int | None) -> None:
        """Make the directories of a new snapshot.

        Args:
            id_: of the snapshot.
            kind: only an active one is written to.
            parent: the root of a tree belongs to whom it belonged there.

        Raises:
            LayerError: they cannot be made.
        """
        base = self._live / str(id_)
        upper = base / "fs"
        try:
            base.mkdir(0o700)
            upper.mkdir(0o755)
            upper.chmod(0o755)  # whatever the umask is
            if kind is Kind.ACTIVE:
                (base / "work").mkdir(0o711)
            if parent is not None:
                above, own = (self._live / str(parent) / "fs").stat(), upper.stat()
                if (above.st_uid, above.st_gid) != (own.st_uid, own.st_gid):
                    os.chown(upper, above.st_uid, above.st_gid)
        except OSError as error:
            raise LayerError(
                "directory of a snapshot cannot be made",
                directory=base,
                reason=error.strerror,
                hint="is the disk full?" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None,
            ) from error

    def link_farm(self, id_: int, farm: Path) -> None:
        """A short name below the snapshot for a directory that lies elsewhere.

        Containerd shortens the options of a mount by what all layers have in common, and one
        page is all that the kernel takes of them.

        Args:
            id_: of the snapshot.
            farm: the directory.

        Raises:
            LayerError: it cannot be made.
        """
        link = self._live / str(id_) / "farm"
        fresh = link.with_suffix(".new")
        try:
            with suppress(FileNotFoundError):
                if link.readlink() == farm:
                    return
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(farm)
            fresh.rename(link)
        except OSError as error:
            raise LayerError(
                "link to a farm cannot be made", file=link, reason=error.strerror
            ) from error

    def discard(self, id_: int) -> bool:
        """Put the directories of a snapshot aside.

        A mount of them lives on. Nothing is lost where it fails: `sweep` finds them.

        Returns:
            Whether there is something to delete.
        """
        try:
            (self._live / str(id_)).rename(self._removed / str(id_))
        except OSError as error:
            return error.errno != errno.ENOENT
        return True

    def missing(self, ids: Collection[int]) -> list[int]:
        """Those of `ids` that have no directory, ascending."""
        names = {directory.name for directory in self._live.iterdir()}
        return sorted(id_ for id_ in ids if str(id_) not in names)

    def sweep(self, ids: Callable[[], Collection[int]]) -> None:
        """Put aside what belongs to no snapshot.

        Args:
            ids: gives those of all snapshots; asked after the directories were listed, so that
                one that is new by then is not taken for an old one.
        """
        there = list(_of_snapshots(self._live))
        known = set(map(str, ids()))
        for directory in there:
            if directory.name not in known:
                with suppress(OSError):
                    directory.rename(self._removed / directory.name)

    def delete(self, *, stopped: Callable[[], bool] = lambda: False) -> int:
        """Delete what was put aside.

        Args:
            stopped: asked between snapshots; the rest is for another time.

        Returns:
            How many could not be deleted yet: something is mounted in them.
        """
        left = 0
        for directory in _of_snapshots(self._removed):
            if stopped():
                break
            try:
                shutil.rmtree(directory)
            except FileNotFoundError:
                continue
            except OSError:
                left += 1
        return left

    def usage(self, id_: int) -> Usage:
        """What a snapshot takes on the disk; a file of several names counts once.

        Raises:
            LayerError: it cannot be read.
        """
        upper = self.upper(id_)
        try:
            top = os.lstat(upper)
            seen, blocks = {top.st_ino}, top.st_blocks
            pending = [upper]
            while pending:
                # A container may be writing: what is gone by now counts for nothing.
                with suppress(FileNotFoundError), os.scandir(pending.pop()) as entries:
                    for entry in entries:
                        with suppress(FileNotFoundError):
                            status = entry.stat(follow_symlinks=False)
                            if status.st_ino not in seen:
                                seen.add(status.st_ino)
                                blocks += status.st_blocks
                            if stat.S_ISDIR(status.st_mode):
                                pending.append(entry.path)
        except OSError as error:
            raise LayerError(
                "directory of a snapshot cannot be read", directory=upper, reason=error.strerror
            ) from error
        return Usage(size=blocks * BLOCK, inodes=len(seen))

    def add_mountpoints(self, id_: int, names: Iterable[tuple[str, bool]]) -> None:
        """Make places below ``/nix/store`` of a layer for store paths to be mounted at.

        What is there stays as it is.

        Args:
            id_: of the snapshot.
            names: of the store paths, each with whether it is a directory.

        Raises:
            PreconditionError: the layer has something else at ``/nix`` or ``/nix/store``.
            LayerError: they cannot be made.
        """
        upper = self.upper(id_)
        try:
            with ExitStack() as opened:
                store = os.open(upper, _DIRECTORY)
                opened.callback(os.close, store)
                for name in STORE:
                    with suppress(FileExistsError):
                        os.mkdir(name, 0o755, dir_fd=store)
                    store = os.open(name, _DIRECTORY, dir_fd=store)
                    opened.callback(os.close, store)
                for name, is_directory in names:
                    with suppress(FileExistsError):
                        _make_mountpoint(store, name, is_directory=is_directory)
        except OSError as error:
            if error.errno in _NO_DIRECTORY:
                raise PreconditionError(
                    "layer has no directory where store paths belong", directory="/nix/store"
                ) from error
            raise LayerError(
                "place for a store path cannot be made", directory=upper, reason=error.strerror
            ) from error


def _of_snapshots(directory: Path) -> Iterator[Path]:
    """The directories in there that we made: what has another name is not ours to delete."""
    for entry in directory.iterdir():
        if _ID.fullmatch(entry.name):
            yield entry


def _make_mountpoint(store: int, name: str, *, is_directory: bool) -> None:
    if is_directory:
        os.mkdir(name, 0o755, dir_fd=store)
    else:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(name, flags, 0o555, dir_fd=store))
