"""Caches in a directory, as ``nix copy --to file:///dir`` writes them. Knows files, no network.

Names cannot climb out of the directory (see `urls.segments`). Symbolic links below it are
followed, as web servers and Nix do: a cache made of links into a pool is a cache, and who can
put a link there could as well put the file. What a link leads to is read only if it is a regular
file, so that a FIFO or a device neither blocks nor wakes anything.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nixfetch.errors import TransportError, facts
from nixfetch.transport.base import Body, NotFoundError, UnsatisfiableRangeError
from nixfetch.transport.urls import redacted, scheme, segments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nixfetch.transport.base import Pace, Range

CHUNK_SIZE = 256 * 1024  # bytes; what `Body.chunks` allows

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
_IRREGULAR = frozenset({errno.ENXIO, errno.ENODEV, errno.EISDIR})  # sockets, device nodes
# The descriptor table is full, or a network file system hiccups.
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN})


class FileTransport:
    """Reads below one directory.

    Args:
        root: the directory; it need not exist yet. It may be a symbolic link.
    """

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.abspath(root))  # noqa: PTH100 - Path.absolute keeps ".."

    @property
    def url(self) -> str:
        return self._root.as_uri()

    @contextmanager
    def open(
        self, name: str, wanted: Range | None = None, *, pace: Pace | None = None
    ) -> Iterator[Body]:
        del pace  # a disk has its own
        url = redacted(name) if scheme(name) else f"{self.url}/{redacted(name)}"
        with facts(url=url):
            descriptor = self._open(segments(name))
        try:
            with facts(url=url):
                body = _body(descriptor, wanted, url)
            yield body
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Nothing is kept open."""

    def _open(self, parts: tuple[bytes, ...]) -> int:
        path = os.path.join(os.fsencode(self._root), *parts)  # noqa: PTH118 - names are bytes
        try:
            # O_NONBLOCK: opening a FIFO would wait for a writer.
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            if error.errno in _ABSENT:
                raise self._absent() from error
            raise _cannot_read(error) from error

    def _absent(self) -> TransportError:
        """Tell a missing object from a missing cache."""
        try:
            if self._root.is_dir():
                return NotFoundError("no such object")
        except OSError as error:  # a name that no directory can have
            return _cannot_read(error)
        # Named as a path, which is what it is about: whoever asks adds the store path otherwise.
        hint = "is the cache's disk mounted?"
        return TransportError("no such directory", hint=hint, path=str(self._root))


def _body(descriptor: int, wanted: Range | None, url: str) -> Body:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise TransportError("not a regular file")
    validator = f"{status.st_mtime_ns}-{status.st_size}"
    start, stop = 0, status.st_size
    if wanted is not None and not wanted.whole and wanted.validator in {None, validator}:
        if wanted.start >= stop:
            raise UnsatisfiableRangeError("object is shorter than the range asked for", size=stop)
        start, stop = wanted.start, min(wanted.stop or stop, stop)
    chunks = _chunks(descriptor, start, stop, url)
    return Body(chunks=chunks, size=stop - start, start=start, validator=validator)


def _chunks(descriptor: int, start: int, stop: int, url: str) -> Iterator[bytes]:
    while start < stop:
        try:
            chunk = os.pread(descriptor, min(CHUNK_SIZE, stop - start), start)
        except OSError as error:
            with facts(url=url):
                raise _cannot_read(error) from error
        if not chunk:
            raise TransportError(
                "body ended early", retryable=True, url=url, offset=start, expected=stop
            )
        yield chunk
        start += len(chunk)


def _cannot_read(error: OSError) -> TransportError:
    if error.errno in _IRREGULAR:
        return TransportError("not a regular file")
    reason = (error.strerror or "unknown").lower()
    return TransportError("cannot read", retryable=error.errno in _PASSING, reason=reason)
