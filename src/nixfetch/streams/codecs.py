"""Every compression that a binary cache may use, by its name. Knows no narinfo.

The libraries that only some caches need are imported when their first decoder is made.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from nixfetch.errors import FormatError
from nixfetch.streams import inflate
from nixfetch.streams.decoder import (
    MEMORY_LIMIT,
    PIECE,
    CodecError,
    Decoder,
    MemoryLimitError,
    TruncatedError,
)
from nixfetch.streams.lzip import LzipMember
from nixfetch.streams.members import MembersDecoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

__all__ = [
    "HEAD",
    "MEMORY_LIMIT",
    "PIECE",
    "CodecError",
    "Decoder",
    "MemoryLimitError",
    "TruncatedError",
    "UnsupportedCompressionError",
    "decode",
    "decoder",
    "recognise",
    "supported",
]

HEAD = 24  # bytes that `recognise` looks at; the longest magic is the NAR's


class UnsupportedCompressionError(FormatError):
    """There is no such compression, or nothing here that undoes it. Fact: `compression`."""


@dataclass(frozen=True, slots=True)
class _Codec:
    """How to decode one compression."""

    begin: Callable[[int], Decoder]
    """Makes a decoder; gets the memory limit in bytes."""
    package: str | None = None
    """The optional package that it takes, named as the extra of ours that brings it."""


class _Plain:
    """No compression at all; here no input is fine."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), PIECE):
            yield data[start : start + PIECE]

    def finish(self) -> None:
        """Accept any end."""


def _xz(limit: int) -> Decoder:
    return MembersDecoder(
        "xz",
        lambda _head: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=limit),
        lzma.LZMAError,
        memory_limit=limit,
        padding=4,
    )


def _lzma(limit: int) -> Decoder:
    return MembersDecoder(
        "lzma",
        lambda _head: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=limit),
        lzma.LZMAError,
        memory_limit=limit,
        single=True,
    )


def _lzip(limit: int) -> Decoder:
    return MembersDecoder(
        "lzip", lambda _head: LzipMember(limit), lzma.LZMAError, memory_limit=limit
    )


def _bzip2(limit: int) -> Decoder:
    return MembersDecoder("bzip2", lambda _head: bz2.BZ2Decompressor(), OSError, memory_limit=limit)


def _gzip(limit: int) -> Decoder:
    return MembersDecoder(
        "gzip",
        lambda _head: inflate.Inflater(inflate.GZIP),
        zlib.error,
        memory_limit=limit,
    )


def _deflate(limit: int) -> Decoder:
    return MembersDecoder(
        "deflate",
        inflate.begin_deflate,
        zlib.error,
        memory_limit=limit,
        single=True,
    )


def _zstd(limit: int) -> Decoder:
    from nixfetch.streams.zstd import ZstdDecoder

    return ZstdDecoder(limit)


def _br(_limit: int) -> Decoder:
    from nixfetch.streams.brotli import BrotliDecoder

    return BrotliDecoder()


def _lz4(limit: int) -> Decoder:
    import lz4.frame

    return MembersDecoder(
        "lz4", lambda _head: lz4.frame.LZ4FrameDecompressor(), RuntimeError, memory_limit=limit
    )


_CODECS = {
    "none": _Codec(lambda _limit: _Plain()),
    "xz": _Codec(_xz),
    "bzip2": _Codec(_bzip2),
    "zstd": _Codec(_zstd),
    "br": _Codec(_br),
    "gzip": _Codec(_gzip),
    "lzip": _Codec(_lzip),
    "lzma": _Codec(_lzma),
    "lz4": _Codec(_lz4, package="lz4"),
}
"""By the word that stands in a narinfo."""

_HOPELESS = ("compress", "lrzip", "lzop", "grzip")
"""What Nix may write besides, by way of libarchive, and no package here undoes."""

_CONTENT_CODECS = {
    "identity": _CODECS["none"],
    "x-gzip": _CODECS["gzip"],
    "deflate": _Codec(_deflate),
}
"""By the words that only HTTP's Content-Encoding has."""

_MAGIC = {
    b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0": "none",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"LZIP": "lzip",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x1f\x9d": "compress",
    b"LRZI": "lrzip",
    b"\x89LZO\0\r\n\x1a\n": "lzop",
    b"GRZipII\0": "grzip",
}
"""What data begins with; brotli and bare LZMA have nothing of the kind."""


def _installed(package: str) -> bool:
    return find_spec(package) is not None


def decoder(
    compression: str,
    *,
    memory_limit: int = MEMORY_LIMIT,
    installed: Callable[[str], bool] = _installed,
) -> Decoder:
    """Make a decoder, to be fed as data comes.

    Args:
        compression: a narinfo's word (``none xz bzip2 zstd br gzip lzip lzma lz4``) or a
            Content-Encoding (``identity gzip x-gzip deflate br zstd``); lower case.
        memory_limit: bytes of window that the data may ask for, where it may ask: xz, lzma,
            lzip, and zstd, which has 128 MiB at most in any case. A decoder takes a few MiB more.
        installed: says whether an optional package is there.

    Raises:
        UnsupportedCompressionError: there is no decoder; the hint says what to install, if
            anything.
    """
    codec = _CODECS.get(compression) or _CONTENT_CODECS.get(compression)
    if codec is None:
        raise UnsupportedCompressionError("no such compression here", compression=compression)
    if codec.package is not None and not installed(codec.package):
        raise UnsupportedCompressionError(
            "a package for this compression is missing",
            hint=f"pip install 'nixfetch[{codec.package}]'",
            compression=compression,
        )
    return codec.begin(memory_limit)


def decode(
    compression: str, chunks: Iterable[bytes], *, memory_limit: int = MEMORY_LIMIT
) -> Iterator[bytes]:
    """Undo a compression while its data comes.

    Args:
        compression: as `decoder` takes it.
        chunks: the compressed data, cut anywhere.
        memory_limit: as `decoder` takes it.

    Returns:
        Non-empty pieces of at most 256 KiB. No chunk is asked for before all that the last
        one made has been taken.

    Raises:
        UnsupportedCompressionError: at the call; there is no decoder.
        CodecError: while it is iterated; the data is damaged, or has bytes after its end.
        TruncatedError: the data ends too early; empty data does, but for "none".
        MemoryLimitError: the data asks for more memory than is allowed.
    """
    return _pull(decoder(compression, memory_limit=memory_limit), chunks)


def _pull(codec: Decoder, chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        yield from codec.feed(chunk)
    codec.finish()


def recognise(head: bytes) -> str | None:
    """Tell the compression of a NAR from its first bytes.

    Args:
        head: `HEAD` bytes, or all there are.

    Returns:
        A word for `decoder`, which need not support it; None where nothing is known.
    """
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def supported(installed: Callable[[str], bool] = _installed) -> Mapping[str, bool]:
    """Every compression that a narinfo may name, and whether there is a decoder for it here."""
    possible = {
        name: codec.package is None or installed(codec.package) for name, codec in _CODECS.items()
    }
    return possible | dict.fromkeys(_HOPELESS, False)
