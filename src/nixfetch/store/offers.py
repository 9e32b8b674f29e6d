"""New files that others may link to, before they are in ``.links``.

    a new file -> a shelf of this process -> [file data to disk] -> ``.links``

An entry of ``.links`` outlives its tree, and whoever finds it believes its name. So none is made
before the data is on disk: a power cut would leave one that is empty. Until then a new file is
one more link in a directory beside the trees, where the threads of this process look, and
nobody else. What was given before a syncfs began is published after it.

A shelf is named like a tree in staging, so that both of Nix's collectors leave it alone, and is
in the journal before it is made.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from nixfetch.store.journal import shelf_name
from nixfetch.store.links import TOLERATED
from nixfetch.store.trees import remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from nixfetch.store.links import Entry, Links, Shape

_log = logging.getLogger(__name__)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PRIVATE = 0o700


class _Shelf(NamedTuple):
    name: str  # in the store directory
    fd: int


class Offers:
    """What one process has unpacked, by content, and ``.links`` behind it.

    Safe to share among threads. `take_*` and `replace_*` look in both.
    """

    def __init__(
        self, store_fd: int, links: Links, hash_part: str, *, announce: Callable[[list[str]], None]
    ) -> None:
        """Begin with nothing.

        Args:
            store_fd: the store directory.
            links: its ``.links``; stays the caller's.
            hash_part: of a path that is a temporary root as long as this is used.
            announce: is told of names in the store directory before they are made.
        """
        self._store_fd = store_fd
        self._links = links
        self._hash_part = hash_part
        self._announce = announce
        self._lock = threading.Lock()  # a descriptor of a shelf is used under it, and closed
        self._shelf: _Shelf | None = None
        self._leaving: list[_Shelf] = []  # what is on them goes to `.links`
        self._closed = False
        self._stuck = False  # a shelf could not be removed

    def take_file(self, name: str, shape: Shape, *, dir_fd: int, target: bytes) -> bool:
        """As `Links.take_file`."""
        # Shelves first: what leaves one is in `.links` by then.
        return self._take(name, dir_fd, target) or self._links.take_file(
            name, shape, dir_fd=dir_fd, target=target
        )

    def take_symlink(self, name: str, goal: bytes, *, dir_fd: int, target: bytes) -> bool:
        """As `Links.take_symlink`."""
        return self._take(name, dir_fd, target) or self._links.take_symlink(
            name, goal, dir_fd=dir_fd, target=target
        )

    def give(self, name: str, *, dir_fd: int, source: bytes) -> bool:
        """Let others link to `source` in `dir_fd`, which is complete and called `name`.

        Returns:
            False when somebody was faster: there is an entry, and `source` is none of its links.

        Raises:
            DiskError, OSError: the disk refused for a reason that is not the file system's.
        """
        with self._lock:
            if self._closed:  # a thread that was cut off
                return True
            try:
                if self._shelf is None:
                    self._shelf = self._new_shelf()
                os.link(
                    source,
                    name,
                    src_dir_fd=dir_fd,
                    dst_dir_fd=self._shelf.fd,
                    follow_symlinks=False,
                )
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in TOLERATED:
                    raise
        return True

    def replace_file(self, name: str, shape: Shape, *, dir_fd: int, target: bytes) -> bool:
        """Put a link of the file `name` in the place of `target`, which has the same content.

        Returns:
            Whether there was a good one. If not, `target` is what it was.
        """
        fresh = _fresh_name()
        if not self.take_file(name, shape, dir_fd=dir_fd, target=fresh):
            return False
        os.rename(fresh, target, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        return True

    def replace_symlink(self, name: str, goal: bytes, *, dir_fd: int, target: bytes) -> None:
        """The same for a symbolic link to `goal`."""
        fresh = _fresh_name()
        if self.take_symlink(name, goal, dir_fd=dir_fd, target=fresh):
            os.rename(fresh, target, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    def withdraw(self, entry: Entry) -> bool:
        """Take back what `give` gave of a file that goes; whether it was not yet published."""
        with self._lock:
            return any(entry.remove_from(shelf.fd) for shelf in self._shelves())

    def turn_over(self) -> None:
        """Let what was given so far wait for `publish`; then see to it that it gets to disk."""
        with self._lock:
            if self._shelf is not None:
                self._leaving.append(self._shelf)
                self._shelf = None

    def publish(self) -> None:
        """Put into ``.links`` what waits. A failure is logged: it only costs space."""
        with self._lock:
            waiting = list(self._leaving)
        for shelf in waiting:
            try:
                self._publish(shelf)
            except OSError as error:
                _log.warning(
                    "cannot share the files of this run with later ones: %s", error.strerror
                )
            self._drop(shelf)

    def close(self) -> bool:
        """Forget all that is not published; whether all shelves there were could be removed."""
        with self._lock:
            self._closed = True
        self.turn_over()
        with self._lock:
            waiting = list(self._leaving)
        for shelf in waiting:
            self._drop(shelf)
        return not self._stuck

    def _shelves(self) -> list[_Shelf]:
        return [*self._leaving, *([self._shelf] if self._shelf is not None else [])]

    def _take(self, name: str, dir_fd: int, target: bytes) -> bool:
        with self._lock:
            for shelf in self._shelves():
                try:
                    os.link(
                        name,
                        target,
                        src_dir_fd=shelf.fd,
                        dst_dir_fd=dir_fd,
                        follow_symlinks=False,
                    )
                except OSError as error:
                    if error.errno not in TOLERATED:
                        raise
                else:
                    return True
        return False

    def _new_shelf(self) -> _Shelf:
        name = shelf_name(self._hash_part)
        self._announce([name])
        os.mkdir(name, _PRIVATE, dir_fd=self._store_fd)
        try:
            return _Shelf(name, os.open(name, _DIRECTORY, dir_fd=self._store_fd))
        except BaseException:
            try:
                os.rmdir(name, dir_fd=self._store_fd)  # it is empty, and there may be no descriptor
            except OSError as error:
                self._stuck = True
                _log.warning("cannot remove %s: %s", name, error.strerror)
            raise

    def _publish(self, shelf: _Shelf) -> None:
        with os.scandir(shelf.fd) as entries:
            for entry in entries:
                # One call each, so that a thread that looks for it finds it here or there.
                self._links.publish(entry.name, shelf.fd)

    def _drop(self, shelf: _Shelf) -> None:
        with self._lock:
            if shelf not in self._leaving:
                return
            self._leaving.remove(shelf)
            with suppress(OSError):  # a directory has no data to lose, and the number is free
                os.close(shelf.fd)
        try:
            remove_tree(self._store_fd, shelf.name.encode())
        except OSError as error:
            self._stuck = True
            _log.warning("cannot remove %s: %s", shelf.name, error.strerror)


def _fresh_name() -> bytes:
    return b".%s" % secrets.token_hex(8).encode()
