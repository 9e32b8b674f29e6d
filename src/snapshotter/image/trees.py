"""The trees of store paths as they lie on this machine, and where links in them lead.

A link says where something lies for programs, below ``/nix/store``; on this machine it lies below
the root of a store. Whoever follows one here stays within paths that are valid in that store.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import nixfetch
from snapshotter.errors import PreconditionError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

MAX_LINKS = 40  # one after the other; the kernel's own limit
PIECE = 1024 * 1024  # bytes read at a time
_STORE: Final = os.fsencode(nixfetch.STORE_DIR)
_STORE_PARTS = 2  # of "nix/store"
_EXECUTABLE = 0o111


class TreeError(nixfetch.StoreError):
    """The tree of a store path cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A file, a directory or a link in a tree."""

    name: bytes
    """Below the top of the tree, such as ``bin/redis``; empty for the top itself."""
    physical: bytes
    """Where it lies on this machine."""
    mode: int
    """As `os.lstat` gives it."""
    size: int
    """Bytes of a file."""

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def is_program(self) -> bool:
        """Whether it is a file that may be executed."""
        return self.is_file and bool(self.mode & _EXECUTABLE)

    def target(self) -> bytes:
        """Where a link leads."""
        try:
            return os.readlink(self.physical)  # noqa: PTH115 - names are bytes
        except OSError as error:
            raise _unreadable(self.physical, error) from error

    def head(self, size: int) -> bytes:
        """The first bytes of a file."""
        return next(self._pieces(size), b"")

    def chunks(self) -> Iterator[bytes]:
        """The bytes of a file.

        Raises, while it is iterated:
            TreeError: they cannot be read.
        """
        return self._pieces(PIECE)

    def _pieces(self, size: int) -> Iterator[bytes]:
        try:
            fd = os.open(self.physical, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(self.physical, error) from error
        try:
            while data := self._read(fd, size):
                yield data
        finally:
            os.close(fd)

    def _read(self, fd: int, size: int) -> bytes:
        try:
            return os.read(fd, size)
        except OSError as error:
            raise _unreadable(self.physical, error) from error


class Trees:
    """The trees of the valid paths of a store.

    Args:
        store: open as long as this is used.
    """

    def __init__(self, store: nixfetch.LocalStore) -> None:
        self._store = store
        self._valid: set[nixfetch.StorePath] = set()  # of those that were asked for

    def check(self, paths: Collection[nixfetch.StorePath]) -> None:
        """Make sure that paths are valid in the store.

        Raises:
            PreconditionError: some are not.
        """
        missing = sorted(set(paths) - self._store.valid(paths))
        if missing:
            raise PreconditionError(
                "store path is not in the store",
                paths=[str(path) for path in missing[:10]],
                count=len(missing),
                store=str(self._store.root),
                hint=f"nixfetch fetch --store {self._store.root} {missing[0]}",
            )

    def closure(self, paths: Collection[nixfetch.StorePath]) -> tuple[nixfetch.StorePath, ...]:
        """Paths and all that they refer to, ascending.

        Raises:
            PreconditionError: some are not in the store.
        """
        self.check(paths)
        return tuple(sorted(self._store.closure(paths)))

    def size(self, path: nixfetch.StorePath) -> int:
        """Bytes of the archive (NAR) of a valid path."""
        found = self._store.get(path)
        return 0 if found is None else found.nar_size

    def top(self, path: nixfetch.StorePath) -> Node:
        """The tree of a path.

        Raises:
            TreeError: it is not there.
        """
        return _node(b"", os.fsencode(self._store.physical(path)))

    def is_file(self, path: nixfetch.StorePath) -> bool:
        """Whether a path is a file; for a link, whether what it leads to is one."""
        top = self.top(path)
        if top.is_link:
            found = self.resolve(os.fsencode(str(path)))
            return found is None or not found.is_directory
        return not top.is_directory

    def walk(self, path: nixfetch.StorePath) -> Iterator[Node]:
        """All of a tree: a directory before what is in it, in the order of their names.

        Raises, while it is iterated:
            TreeError: something in it cannot be read.
        """
        waiting = [self.top(path)]
        while waiting:
            node = waiting.pop()
            yield node
            if node.is_directory:
                waiting += reversed(_children(node))

    def listing(self, path: nixfetch.StorePath, directory: bytes) -> list[Node]:
        """What is in a directory of a tree, by name; nothing where it is none.

        Raises:
            TreeError: it cannot be read.
        """
        found = self.resolve(os.fsencode(str(path)) + b"/" + directory)
        return _children(found) if found is not None and found.is_directory else []

    def resolve(self, logical: bytes) -> Node | None:
        """What a name below ``/nix/store`` means to programs, links followed.

        Args:
            logical: absolute.

        Returns:
            A file or directory; None where there is none in a valid path, or too many links.
        """
        links = 0
        todo = _parts(logical)[::-1]
        done: list[bytes] = []
        while todo:
            part = todo.pop()
            if part == b"..":
                done = done[:-1]
                continue
            done.append(part)
            if len(done) <= _STORE_PARTS:
                continue
            node = self._at(done)
            if node is None:
                return None
            if node.is_link:
                links += 1
                if links > MAX_LINKS:
                    return None
                target = node.target()
                done = [] if target.startswith(b"/") else done[:-1]
                todo += _parts(target)[::-1]
        return self._at(done) if len(done) > _STORE_PARTS else None

    def _at(self, parts: list[bytes]) -> Node | None:
        """What lies at an absolute place, whose directories are no links."""
        if parts[:_STORE_PARTS] != _parts(_STORE):
            return None
        base = parts[_STORE_PARTS]
        try:
            path = nixfetch.StorePath.parse(base.decode("ascii"))
        except (nixfetch.FormatError, UnicodeDecodeError):
            return None
        if path not in self._valid:
            self._valid |= self._store.valid([path])
        if path not in self._valid:
            return None
        below = b"/".join(parts[_STORE_PARTS + 1 :])
        physical = os.fsencode(self._store.physical(path))
        try:
            return _node(below, physical + b"/" + below if below else physical)
        except TreeError:
            return None


def _children(node: Node) -> list[Node]:
    try:
        names = sorted(os.listdir(node.physical))  # noqa: PTH208 - names are bytes
    except OSError as error:
        raise _unreadable(node.physical, error) from error
    above = node.name + b"/" if node.name else b""
    return [_node(above + name, node.physical + b"/" + name) for name in names]


def _node(name: bytes, physical: bytes) -> Node:
    try:
        status = os.lstat(physical)
    except OSError as error:
        raise _unreadable(physical, error) from error
    return Node(name=name, physical=physical, mode=status.st_mode, size=status.st_size)


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part not in {b"", b"."}]


def _unreadable(physical: bytes, error: OSError) -> TreeError:
    return TreeError(
        "cannot read a store path", file=os.fsdecode(physical), reason=error.strerror or str(error)
    )
