"""Farms: directories that hold one closure and nothing else, as the first of an overlay's layers.

    DIRECTORY/<name>/nix/store/<base>…      hard links into the store: no data is copied
    DIRECTORY/.new.<random>                 one that is being made, or is going away

A name is made of the paths and of their inodes, so that all who need the same closure share one
farm, and a path that was fetched anew, as by a repair, gets into another one. A farm is whole when
it has its name. Files are inodes of the store: overlayfs copies one before anybody changes it, so
that what a container writes ends in its own upper layer; nothing else may be given a farm to write
to. A path that is a symbolic link is one here too, as no bind mount could have it.

One process has a directory. Whoever calls `sweep` sees to it that nobody is between `get` and
saying that he uses the farm. A farm is no root: its closure has one as long as it is used.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import nixfetch
from snapshotter import owned
from snapshotter.errors import InternalError, PreconditionError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from nixfetch import LocalStore, StorePath

_log = logging.getLogger(__name__)
STORE = ("nix", "store")
"""Where the paths lie below a farm."""
_PASSING = ".new."  # what the names of farms that are not whole begin with
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o755  # of directories that no path has: they may become the container's own
_TIME = 1  # seconds since 1970, as in a store
_LENGTH = 32  # hexadecimal digits of a name: 128 bits
_NAME = re.compile(rf"[0-9a-f]{{{_LENGTH}}}")  # what is called otherwise is not ours to delete


class FarmError(InternalError):
    """A farm cannot be made, or not be removed."""


class Farms:
    """The farms of one daemon, of paths of one store. Safe to share among threads."""

    def __init__(self, directory: Path, store: LocalStore) -> None:
        """Have farms in `directory`, on the file system of `store`.

        Args:
            directory: nobody else's; made when it is missing, its parents too.
            store: where the paths are; stays the caller's.

        Raises:
            NotOursError: it is a link, or somebody else's, or cannot be made.
        """
        self._directory = directory
        self._store = store
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}
        self._passing: set[str] = set()  # names that threads of ours work on
        owned.claim(directory)

    def get(self, closure: Collection[StorePath]) -> Path:
        """The farm of exactly `closure`; made when there is none, once for all who ask.

        Args:
            closure: valid paths that stay meanwhile.

        Returns:
            Its directory; what it is called there is for `sweep`.

        Raises:
            PreconditionError: one of them is not valid, or not there.
            FarmError: it cannot be made; nothing is left of it.
        """
        paths = sorted(set(closure))
        name = self._name(paths)
        farm = self._directory / name
        if not farm.is_dir():
            with self._lock:
                making = self._making.setdefault(name, threading.Lock())
            try:
                with making:
                    if not farm.is_dir():
                        self._make(name, paths)
            finally:
                with self._lock:
                    self._making.pop(name, None)
        return farm

    def _name(self, paths: list[StorePath]) -> str:
        """What the farm of `paths`, which are checked, is called."""
        valid = self._store.valid(paths)
        digest = hashlib.sha256()
        for path in paths:
            if path not in valid:
                raise PreconditionError("store path is not valid in this store", path=path)
            try:
                status = os.stat(path.base, dir_fd=self._store.fd, follow_symlinks=False)
            except OSError as error:
                raise _gone(path, error) from error
            digest.update(f"{path.base} {status.st_ino}\n".encode())
        return digest.hexdigest()[:_LENGTH]

    def names(self) -> set[str]:
        """The names of the farms that there are."""
        with _errors(self._directory):
            return {name for name in os.listdir(self._directory) if not name.startswith(_PASSING)}  # noqa: PTH208 - names

    def sweep(self, used: Collection[str]) -> None:
        """Remove all farms but those called so, and what a crash left of others.

        A container that has one mounted must be among the users. What cannot be removed now is
        left for another time.

        Raises:
            FarmError: the directory cannot be read.
        """
        with _errors(self._directory):
            names = os.listdir(self._directory)  # noqa: PTH208 - names
        for name in names:
            try:
                if name.startswith(_PASSING):
                    with self._lock:
                        busy = name in self._passing
                    if not busy:
                        self._remove(name)
                elif name not in used and _NAME.fullmatch(name):
                    self._remove(name)
            except nixfetch.NixfetchError as error:
                _log.warning("a farm stays for now: %s", error)

    def _make(self, name: str, paths: list[StorePath]) -> None:
        with self._passing_name() as passing:
            try:
                self._fill(passing, paths)
                with _errors(self._directory / name):
                    self._give_name(passing, name)
            except BaseException:
                self._remove(passing)
                raise

    def _fill(self, name: str, paths: list[StorePath]) -> None:
        with ExitStack() as opened:
            with _errors(self._directory / name):
                at = _open(self._directory, opened)
                levels = []
                for part in (name, *STORE):
                    os.mkdir(part, 0o700, dir_fd=at)
                    at = _open(part, opened, at)
                    levels.append(at)
            for path in paths:
                self._link(path, at)
            with _errors(self._directory / name):
                for level in reversed(levels):
                    os.fchmod(level, _MODE)
                    os.utime(level, (_TIME, _TIME))
                    os.fsync(level)

    def _link(self, path: StorePath, directory_fd: int) -> None:
        try:
            self._store.link_into(path, directory_fd)
        except nixfetch.DiskError as error:
            match error.facts.get("errno"):
                case "ENOENT":
                    raise _gone(path, error) from error
                case "EXDEV":
                    raise FarmError(
                        "farms are not on the file system of the store",
                        hint="give them a directory below the root of the store",
                        directory=str(self._directory),
                        store=str(self._store.root),
                    ) from error
                case _:
                    raise

    def _give_name(self, passing: str, name: str) -> None:
        """Let the farm be there, after a power cut too: whole, or not at all.

        All of it is in the journal of the file system before the rename is.
        """
        fd = os.open(self._directory, _DIRECTORY)
        try:
            os.fsync(fd)
            try:
                os.rename(passing, name, src_dir_fd=fd, dst_dir_fd=fd)
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                nixfetch.remove_tree(fd, passing.encode())  # another thread was faster
            os.fsync(fd)
        finally:
            os.close(fd)

    def _remove(self, name: str) -> None:
        """Remove what is called `name`; first of all, it has another name that nobody asks for."""
        with self._passing_name() as passing, _errors(self._directory / name):
            fd = os.open(self._directory, _DIRECTORY)
            try:
                os.rename(name, passing, src_dir_fd=fd, dst_dir_fd=fd)
                nixfetch.remove_tree(fd, passing.encode())
            except FileNotFoundError:
                return
            finally:
                os.close(fd)

    @contextmanager
    def _passing_name(self) -> Iterator[str]:
        """A fresh name for what is no farm, or none any more."""
        name = _PASSING + secrets.token_hex(8)
        with self._lock:
            self._passing.add(name)
        try:
            yield name
        finally:
            with self._lock:
                self._passing.discard(name)


def _gone(path: StorePath, error: Exception) -> PreconditionError:
    return PreconditionError(
        "store path is valid, but its tree is not there",
        hint=f"`nixfetch verify --repair {path}` fetches it anew",
        path=path,
        reason=str(error),
    )


@contextmanager
def _errors(file: Path) -> Iterator[None]:
    """Turn any `OSError` of the few calls inside into a `FarmError` about `file`."""
    try:
        yield
    except OSError as error:
        raise FarmError(
            "a farm of the store cannot be kept", file=str(file), reason=error.strerror
        ) from error


def _open(name: Path | str, opened: ExitStack, dir_fd: int | None = None) -> int:
    fd = os.open(name, _DIRECTORY, dir_fd=dir_fd)
    opened.callback(os.close, fd)
    return fd
