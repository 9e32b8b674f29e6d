r"""Git object hashes of what a NAR holds, for content addresses of the kind ``fixed:git:``.

    blob  = H("blob <size>\0" contents)
    tree  = H("tree <size>\0" ("<mode> <name>\0" hash)*)

Entries are ordered as if the names of directories ended in "/". An empty directory is the
empty tree and is listed, unlike in `git write-tree`. Memory grows with the widest
directories that are open at a time (about 300 bytes an entry): a tree's size stands before
its entries.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from nixfetch.formats.nar.events import Contents, Directory, End, Event, Regular, Symlink

if TYPE_CHECKING:
    from nixfetch.formats.hashes import Hasher

_REGULAR, _EXECUTABLE, _SYMLINK, _TREE = b"100644", b"100755", b"120000", b"40000"


class GitHasher:
    """Fed with the events of a NAR, gives the git hash of its root."""

    def __init__(self, algorithm: str) -> None:
        """Start with sha1 or sha256."""
        self._algorithm = algorithm
        # Around the root lies a directory that is never closed.
        self._directories: list[list[tuple[bytes, bytes, bytes]]] = [[]]
        self._names: list[bytes] = []
        self._blob: Hasher | None = None
        self._mode = _REGULAR

    def apply(self, event: Event) -> None:
        """Take the next event."""
        match event:
            case Contents(data):
                assert self._blob is not None
                self._blob.update(data)
            case Regular(name, size, executable, _):
                self._names.append(name)
                self._mode = _EXECUTABLE if executable else _REGULAR
                self._blob = self._start(b"blob", size)
            case Directory(name):
                self._names.append(name)
                self._directories.append([])
            case Symlink(name, target):
                blob = self._start(b"blob", len(target))
                blob.update(target)
                self._directories[-1].append((name, _SYMLINK, blob.digest()))
            case End() if self._blob is not None:
                entry = (self._names.pop(), self._mode, self._blob.digest())
                self._directories[-1].append(entry)
                self._blob = None
            case End():  # pragma: no branch - there is no other
                digest = self._tree(self._directories.pop())
                self._directories[-1].append((self._names.pop(), _TREE, digest))

    def digest(self) -> bytes:
        """The hash of the root, when all events have come."""
        [(_, _, digest)] = self._directories[0]
        return digest

    def _start(self, kind: bytes, size: int) -> Hasher:
        blob = hashlib.new(self._algorithm, usedforsecurity=False)
        blob.update(b"%s %d\0" % (kind, size))
        return blob

    def _tree(self, entries: list[tuple[bytes, bytes, bytes]]) -> bytes:
        entries.sort(key=lambda entry: entry[0] + b"/" if entry[1] is _TREE else entry[0])
        body = b"".join(b"%s %s\0%s" % (mode, name, digest) for name, mode, digest in entries)
        tree = self._start(b"tree", len(body))
        tree.update(body)
        return tree.digest()
