"""One lzip member. Knows the container; the LZMA in it is the standard library's.

    member  ::= "LZIP" 0x01 dictionary  lzma  trailer      lzma: lc=3 lp=0 pb=2, ends by its marker
    trailer ::= crc32 (u32)  size of the data (u64)  size of the member (u64)      little endian

The dictionary's size is ``2**n - f * 2**n / 16`` with n in the low five bits of its byte,
12 to 29, and f in the high three. Source: the lzip manual, "File format".
"""

from __future__ import annotations

import lzma
import struct
import zlib

from nixfetch.streams.decoder import damaged, too_wide

_MAGIC = b"LZIP\x01"  # with the only version that is in use
_HEADER = len(_MAGIC) + 1  # bytes
_TRAILER = struct.Struct("<IQQ")
_MIN_DICTIONARY = 4 * 1024  # bytes
_MAX_DICTIONARY = 512 * 1024 * 1024  # bytes


class LzipMember:
    """One lzip member being decoded; has the interface of `members.Member`."""

    def __init__(self, memory_limit: int) -> None:
        self.eof = False
        self.needs_input = True
        self.unused_data = b""
        self._memory_limit = memory_limit
        self._lzma: lzma.LZMADecompressor | None = None
        self._at_trailer = False
        self._held = b""  # the header, then the trailer, as far as they have come
        self._crc = 0
        self._size = 0  # bytes of output
        self._member_size = _HEADER + _TRAILER.size  # and the LZMA bytes

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Take `data`, give at most `max_length` bytes; the rest stays for the next call."""
        stream = self._lzma
        if stream is None:
            self._held += data
            if len(self._held) < _HEADER:
                return b""
            stream = self._lzma = self._begin(self._held[:_HEADER])
            data, self._held = self._held[_HEADER:], b""
        if self._at_trailer:
            self._end(data)
            return b""
        piece = stream.decompress(data, max_length)
        self._member_size += len(data) - len(stream.unused_data)
        self._size += len(piece)
        self._crc = zlib.crc32(piece, self._crc)
        self._at_trailer = stream.eof
        self.needs_input = self._at_trailer or stream.needs_input
        if self._at_trailer:
            self._end(stream.unused_data)
        return piece

    def _begin(self, header: bytes) -> lzma.LZMADecompressor:
        if not header.startswith(_MAGIC):
            raise damaged("lzip", "wrong magic or version")
        power = 1 << (header[-1] & 0x1F)
        dictionary = power - power // 16 * (header[-1] >> 5)
        if not _MIN_DICTIONARY <= dictionary <= _MAX_DICTIONARY:
            raise damaged("lzip", "no such dictionary size")
        if dictionary > self._memory_limit:
            raise too_wide("lzip", self._memory_limit, needed=dictionary)
        lzma1 = {"id": lzma.FILTER_LZMA1, "dict_size": dictionary, "lc": 3, "lp": 0, "pb": 2}
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[lzma1])

    def _end(self, data: bytes) -> None:
        self._held += data
        if len(self._held) < _TRAILER.size:
            return
        crc, size, member_size = _TRAILER.unpack_from(self._held)
        if crc != self._crc:
            raise damaged("lzip", "wrong checksum")
        if size != self._size:
            raise damaged("lzip", "wrong data size")
        if member_size != self._member_size:
            raise damaged("lzip", "wrong member size")
        self.eof = True
        self.unused_data = self._held[_TRAILER.size :]
