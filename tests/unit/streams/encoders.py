"""One encoder for each compression that we decode, and ways to cut its output."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import zlib
from typing import TYPE_CHECKING

import brotli
import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def lzip(data: bytes, dictionary_code: int = 16) -> bytes:
    """One member; the dictionary's code is a power of two without a fraction."""
    lzma1 = {"id": lzma.FILTER_LZMA1, "dict_size": 1 << dictionary_code, "lc": 3, "lp": 0, "pb": 2}
    packed = lzma.compress(data, lzma.FORMAT_RAW, filters=[lzma1])
    trailer = struct.pack("<IQQ", zlib.crc32(data), len(data), len(packed) + 26)
    return b"LZIP\x01" + bytes([dictionary_code]) + packed + trailer


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


def lz4(data: bytes) -> bytes:
    import lz4.frame

    packed: bytes = lz4.frame.compress(data, content_checksum=True)
    return packed


def lzma_alone(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_ALONE, preset=1)


def xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=1)


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def br(data: bytes) -> bytes:
    packed: bytes = brotli.compress(data, quality=5)
    return packed


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "xz": xz,
    "lzma": lzma_alone,
    "bzip2": bz2.compress,
    "zstd": zstd,
    "gzip": gzip.compress,
    "br": br,
    "lzip": lzip,
    "lz4": lz4,
    "deflate": zlib.compress,
}
"""All but "none"."""

MANY = ("xz", "bzip2", "zstd", "gzip", "lzip", "lz4")
"""Those whose encodings may follow each other."""


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """`data` in pieces of `size` bytes."""
    return (data[start : start + size] for start in range(0, len(data), size))
