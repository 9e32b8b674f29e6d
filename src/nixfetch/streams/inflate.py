"""zlib's decompression with the interface of a member. Knows no headers: `wbits` says which."""

from __future__ import annotations

import zlib

GZIP = 31  # wbits: a gzip member, with the largest window
ZLIB = 15  # wbits: a zlib stream (RFC 1950)
RAW = -15  # wbits: deflate alone (RFC 1951)

_METHOD = 0x0F  # bits of a zlib stream's first byte
_DEFLATED = 8  # their only legal value


class Inflater:
    """One deflated stream being decoded."""

    def __init__(self, wbits: int) -> None:
        self._stream = zlib.decompressobj(wbits)
        self._full = False

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._full

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Take `data`, give at most `max_length` bytes; the rest stays for the next call."""
        piece = self._stream.decompress(self._stream.unconsumed_tail + data, max_length)
        # A full piece may have more behind it even when all input is consumed: it is in the window.
        self._full = len(piece) == max_length
        return piece


def begin_deflate(head: bytes) -> Inflater:
    """The decoder for HTTP's "deflate", which some servers send without the zlib header.

    Deflate alone can begin with this value in its low bits only by a stored block whose
    unused bits are not zero, which no encoder writes.
    """
    return Inflater(ZLIB if head[0] & _METHOD == _DEFLATED else RAW)
