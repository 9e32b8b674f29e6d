"""zstd in frames of equal size with a table of them at the end, so that parts can be read.

    data       ::= frame+ table             frame: `FRAME` bytes of content, the last one fewer
    table      ::= magic(4) size(4) entry* count(4) descriptor(1) magic(4)
    entry      ::= compressed size(4) content size(4)          numbers: little endian

The table is a skippable frame: whoever does not know it passes over it, real Nix among them.
Source: zstd, contrib/seekable_format/zstd_seekable_compression_format.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import zstandard

from nixfetch.streams.decoder import CodecError, damaged

if TYPE_CHECKING:
    from collections.abc import Iterator

FRAME = 1024 * 1024  # bytes of content: what one has to decode for one byte of it
LEVEL = 9  # beyond, a tenth of the speed buys three parts in a hundred
MAX_FRAMES = 0x8000000  # of the format
FOOTER = 9  # bytes: count, descriptor, magic
ENTRY = 8  # bytes

_SKIPPABLE = 0x184D2A5E
_SEEKABLE = 0x8F92EAB1
_HEADER = struct.Struct("<II")
_ENTRY = struct.Struct("<II")
_FOOTER = struct.Struct("<IBI")
_CHECKSUMS = 0x80  # descriptor: an entry has four bytes more
_RESERVED = 0x7C  # descriptor


class SeekableCompressor:
    """Compresses what it is fed. The same library and level make the same bytes of the same data.

    Args:
        level: of zstd, 1 to 22.
        frame: bytes of content a frame.
    """

    def __init__(self, level: int = LEVEL, *, frame: int = FRAME) -> None:
        self._library = zstandard.ZstdCompressor(level, write_checksum=True)
        self._frame = frame
        self._open = bytearray()  # of the frame that is not full yet
        self._entries: list[tuple[int, int]] = []

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Take the next bytes; give the frames that they fill."""
        self._open += data
        while len(self._open) >= self._frame:
            yield self._close(self._frame)

    def finish(self) -> Iterator[bytes]:
        """Say that no more will come; give the last frame, and the table."""
        if self._open or not self._entries:
            yield self._close(len(self._open))
        yield table(self._entries)

    def _close(self, size: int) -> bytes:
        with memoryview(self._open) as view, view[:size] as content:
            frame = self._library.compress(content)
        del self._open[:size]
        self._entries.append((len(frame), size))
        return frame


def table(entries: list[tuple[int, int]]) -> bytes:
    """The table of frames, of each its bytes and the bytes of its content."""
    body = b"".join(_ENTRY.pack(*entry) for entry in entries)
    footer = _FOOTER.pack(len(entries), 0, _SEEKABLE)
    return _HEADER.pack(_SKIPPABLE, len(body) + FOOTER) + body + footer


@dataclass(frozen=True, slots=True)
class Part:
    """A frame: where it is, and where its content is."""

    start: int
    """Offset of its first byte."""
    stop: int
    """Offset behind its last byte."""
    content_start: int
    content_stop: int


def table_size(footer: bytes) -> int | None:
    """Bytes of the table at the end of data that ends in `footer`; None: there is none.

    Args:
        footer: the last `FOOTER` bytes.

    Raises:
        CodecError: it is of a kind that we do not know.
    """
    if len(footer) < FOOTER:
        return None
    count: int
    descriptor: int
    count, descriptor, magic = _FOOTER.unpack(footer[-FOOTER:])
    if magic != _SEEKABLE:
        return None
    if descriptor & _RESERVED or count > MAX_FRAMES:
        raise damaged("zstd", "seek table is malformed")
    return _HEADER.size + count * _entry_size(descriptor) + FOOTER


def parse_table(raw: bytes) -> list[Part]:
    """The frames that a table lists, in order.

    Args:
        raw: the whole table, as many bytes as `table_size` says.

    Raises:
        CodecError: it is not one.
    """
    if table_size(raw) != len(raw):
        raise damaged("zstd", "seek table has another size")
    magic, size = _HEADER.unpack_from(raw)
    if magic != _SKIPPABLE or size != len(raw) - _HEADER.size:
        raise damaged("zstd", "seek table is malformed")
    _, descriptor, _ = _FOOTER.unpack(raw[-FOOTER:])
    step = _entry_size(descriptor)
    offsets = [(0, 0)]
    for position in range(_HEADER.size, len(raw) - FOOTER, step):
        compressed, content = _ENTRY.unpack_from(raw, position)
        offsets.append((offsets[-1][0] + compressed, offsets[-1][1] + content))
    return [Part(*one, *other) for one, other in _transposed(offsets)]


def _transposed(
    offsets: list[tuple[int, int]],
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    for (start, content_start), (stop, content_stop) in pairwise(offsets):
        yield (start, stop), (content_start, content_stop)


def _entry_size(descriptor: int) -> int:
    return ENTRY + (4 if descriptor & _CHECKSUMS else 0)


__all__ = [
    "FOOTER",
    "FRAME",
    "LEVEL",
    "CodecError",
    "Part",
    "SeekableCompressor",
    "parse_table",
    "table",
    "table_size",
]
