"""Layers compressed: the same bytes whenever, and on whichever machine has the same libraries.

Layers that need equal digests on machines with other versions of zlib are left as they are:
"none" depends on nothing.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# No time, no name, and an operating system that is not known: RFC 1952, section 2.3.
_GZIP_HEADER = bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255])
_GZIP_LEVEL = 6
_ZSTD_LEVEL = 3
_RAW_DEFLATE = -15


def compressed(compression: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """`chunks` under "none", "gzip" or "zstd"."""
    return _METHODS[compression](chunks)


def _none(chunks: Iterable[bytes]) -> Iterator[bytes]:
    yield from chunks


def _gzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _RAW_DEFLATE)
    checksum = size = 0
    yield _GZIP_HEADER
    for chunk in chunks:
        checksum = zlib.crc32(chunk, checksum)
        size += len(chunk)
        if data := compressor.compress(chunk):
            yield data
    yield compressor.flush()
    yield checksum.to_bytes(4, "little") + (size % 2**32).to_bytes(4, "little")


def _zstd(chunks: Iterable[bytes]) -> Iterator[bytes]:
    import zstandard

    compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compressobj()
    for chunk in chunks:
        if data := compressor.compress(chunk):
            yield data
    yield compressor.flush()


_METHODS: dict[str, Callable[[Iterable[bytes]], Iterator[bytes]]] = {
    "none": _none,
    "gzip": _gzip,
    "zstd": _zstd,
}
