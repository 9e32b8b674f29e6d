"""Where the files of an image lie: in a tar archive, by their offsets, or in a directory.

Nothing is ever unpacked. Names are looked up and never opened below a directory but in OCI's own
few forms, each component without following links. Knows no manifests.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Protocol

import nixfetch
from snapshotter.oci import tar
from snapshotter.oci.digests import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MAX_MEMBERS = 10_000  # of an archive: old ones of Docker's have four a layer
MAX_UNPACKED = 32 * 1024**3  # bytes; a whole image unpacked
FREE_UNPACKED = 256 * 1024**2  # bytes that any compressed data may unpack to
MAX_RATIO = 200  # times its size, beyond that; zeros give gzip 1030, real layers have 2 to 10
MAX_LINKS = 8  # one after the other
PIECE = 1024 * 1024  # bytes read at a time
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\0": "xz"}
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OF_LAYOUT = re.compile(r"oci-layout|index\.json|blobs/[a-z0-9]+/[0-9a-f]+")


class ArchiveError(ImageError):
    """The file or directory is no image that could be read."""


class UnreadableError(nixfetch.StoreError):
    """The operating system does not let us read an image."""


class BombError(ImageError):
    """Compressed data unpack to more than anybody would need."""


class Place(Protocol):
    """Files by name."""

    def size(self, name: str) -> int | None:
        """Bytes of a file; None when there is no such file."""
        ...

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of a file that is there.

        Raises, while it is iterated:
            UnreadableError: it cannot be read.
            ArchiveError: it ends early.
        """
        ...


@contextmanager
def opening(file: Path, *, scratch: Path | None = None) -> Iterator[Place]:
    """Open a tar archive, plain or compressed, or a directory.

    Args:
        file: it; a link is followed.
        scratch: where a compressed archive is unpacked, into a file without a name.

    Raises:
        UnreadableError: it is not there, or cannot be opened.
        ArchiveError: it is neither.
        BombError: compressed, it is larger than it may be.
    """
    with ExitStack() as stack:
        try:
            fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise UnreadableError(
                "cannot open an image", file=str(file), reason=error.strerror
            ) from error
        stack.callback(os.close, fd)
        mode = os.fstat(fd).st_mode
        with nixfetch.facts(file=str(file)):
            if stat.S_ISDIR(mode):
                place: Place = _Directory(fd)
            elif stat.S_ISREG(mode):
                place = _Archive(_plain(fd, stack, scratch))
            else:
                raise ArchiveError("neither a file nor a directory")
        yield place


def compression(head: bytes) -> str:
    """What data are compressed with, from their first six bytes; "none" where nothing is known."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "none")


def bounded(
    unpacked: Iterable[bytes], packed: Counted, *, limit: int = MAX_UNPACKED
) -> Iterator[bytes]:
    """Pass on unpacked data, as long as they are in proportion.

    Args:
        unpacked: the data.
        packed: what they are made from, as far as it was read.
        limit: bytes that may come.

    Raises, while it is iterated:
        BombError: more came than may.
    """
    size = 0
    for chunk in unpacked:
        size += len(chunk)
        if size > limit or size > FREE_UNPACKED + MAX_RATIO * packed.size:
            raise BombError(
                "compressed data unpack to too much", packed=packed.size, unpacked=size, limit=limit
            )
        yield chunk


class Counted:
    """Chunks, and how many bytes of them went by."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.size += len(chunk)
            yield chunk


@dataclass(frozen=True, slots=True)
class _Extent:
    offset: int
    size: int


class _Archive:
    """The members of a tar archive."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._files: dict[str, _Extent] = {}
        self._links: dict[str, str] = {}
        for member in tar.members(_Seekable(fd), limit=MAX_MEMBERS):
            self._note(member)

    def size(self, name: str) -> int | None:
        found = self._find(name)
        return None if found is None else found.size

    def chunks(self, name: str) -> Iterator[bytes]:
        found = self._find(name)
        assert found is not None, name
        return _piecewise(self._fd, found.offset, found.size)

    def _note(self, member: tar.Member) -> None:
        name = _inside(os.fsdecode(member.path))
        if member.kind not in {tar.FILE, tar.LINK, tar.HARD_LINK}:
            return
        if name in self._files or name in self._links:
            raise ArchiveError("archive has two members of one name", name=name[:200])
        if member.kind == tar.FILE:
            self._files[name] = _Extent(member.offset, member.size)
        else:
            above = "" if member.kind == tar.HARD_LINK else name.rpartition("/")[0]
            self._links[name] = f"{above}/{os.fsdecode(member.link)}"

    def _find(self, name: str) -> _Extent | None:
        for _ in range(MAX_LINKS):
            name = _inside(name)
            if name not in self._links:
                return self._files.get(name)
            name = _joined(self._links[name])
        raise ArchiveError("too many links", name=name[:200])


class _Directory:
    """The files of an OCI layout."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def size(self, name: str) -> int | None:
        if not _OF_LAYOUT.fullmatch(name):
            return None
        with self._open(name) as fd:
            return None if fd is None else os.fstat(fd).st_size

    def chunks(self, name: str) -> Iterator[bytes]:
        with self._open(name) as fd:
            if fd is None:
                raise ArchiveError("file is gone", name=name)
            yield from _piecewise(fd, 0, os.fstat(fd).st_size)

    @contextmanager
    def _open(self, name: str) -> Iterator[int | None]:
        """A descriptor of a regular file; None where there is none."""
        *above, last = name.split("/")
        with ExitStack() as stack:
            yield self._opened(above, last, stack)

    def _opened(self, above: list[str], last: str, stack: ExitStack) -> int | None:
        at = self._fd
        try:
            for part in above:
                at = os.open(part, _DIRECTORY, dir_fd=at)
                stack.callback(os.close, at)
            fd = os.open(last, _FILE, dir_fd=at)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UnreadableError(
                "cannot open a file of an image", file=last, reason=error.strerror
            ) from error
        stack.callback(os.close, fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ArchiveError("not a regular file", name=last)
        return fd


class _Seekable:
    """A `tar.Source` of a file, which skips without reading."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._offset = 0
        self._end = os.fstat(fd).st_size

    def read(self, size: int) -> bytes:
        data = b"".join(_piecewise(self._fd, self._offset, min(size, self._end - self._offset)))
        self._offset += len(data)
        return data

    def skip(self, size: int) -> int:
        step = min(size, self._end - self._offset)
        self._offset += step
        return step


def _plain(fd: int, stack: ExitStack, scratch: Path | None) -> int:
    """`fd`, or that of a nameless file with what it unpacks to."""
    size = os.fstat(fd).st_size
    found = compression(b"".join(_piecewise(fd, 0, min(6, size))))
    if found == "none":
        return fd
    packed = Counted(_piecewise(fd, 0, size))
    file = stack.enter_context(_nameless(scratch))
    unpacked = bounded(nixfetch.decode(found, packed), packed)
    while (chunk := next(unpacked, None)) is not None:
        try:
            file.write(chunk)
        except OSError as error:
            raise UnreadableError("cannot unpack an archive", reason=error.strerror) from error
    try:
        file.flush()
    except OSError as error:
        raise UnreadableError("cannot unpack an archive", reason=error.strerror) from error
    return file.fileno()


def _nameless(scratch: Path | None) -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(dir=scratch)
    except OSError as error:
        raise UnreadableError(
            "no place to unpack an archive", folder=str(scratch), reason=error.strerror
        ) from error


def _piecewise(fd: int, offset: int, size: int) -> Iterator[bytes]:
    left = size
    while left:
        try:
            data = os.pread(fd, min(left, PIECE), offset)
        except OSError as error:
            raise UnreadableError("cannot read an image", reason=error.strerror) from error
        if not data:
            raise ArchiveError("file ends early", offset=offset, missing=left)
        offset += len(data)
        left -= len(data)
        yield data


def _inside(name: str) -> str:
    """A name in an archive, without dots.

    Raises:
        ArchiveError: it leads out of the archive.
    """
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if name.startswith("/") or ".." in parts:
        raise ArchiveError("name leads out of the archive", name=ascii(name[:200]))
    return "/".join(parts)


def _joined(path: str) -> str:
    """Where a link leads; `..` takes away what stands before it."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if not parts:
                raise ArchiveError("link leads out of the archive", name=ascii(path[:200]))
            parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)
