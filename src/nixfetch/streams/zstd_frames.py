"""Where the frames and blocks of zstd data lie. Decodes nothing: it reads their headers.

    data       ::= (frame | skippable)+
    skippable  ::= magic(4) size(4) bytes
    frame      ::= magic(4) descriptor(1) [window(1)] [dictionary id(1,2,4)] [content size(1,2,4,8)]
                   block+ [checksum(4)]
    block      ::= header(3) bytes          header: last(1 bit) type(2 bits) size(21 bits)

Why: the library decodes all that it is given in one go, whatever that makes, and does not
say where its input ended. A block makes at most 128 KiB; so whoever knows where blocks
begin can give the library no more at a time than makes one piece, and knows whether the
last frame is complete. It costs one step of Python a block.

Source: RFC 8878, section 3.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nixfetch.streams.decoder import PIECE, damaged, too_wide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_WINDOW = 1 << 27  # bytes; the bound of the library and of Nix
MAX_BLOCK = 128 * 1024  # bytes that a block may make

_MAGIC = 0xFD2FB528
_SKIPPABLE = 0x184D2A5  # without the last digit, which is free
_DICTIONARY_ID = (0, 1, 2, 4)  # bytes, by the descriptor's bits 0-1
_CONTENT_SIZE = (0, 2, 4, 8)  # bytes, by the descriptor's bits 6-7
_RESERVED = 0x08  # descriptor
_CHECKSUM = 0x04  # descriptor
_SINGLE_SEGMENT = 0x20  # descriptor: no window byte, the window is the content

_RAW, _RLE, _COMPRESSED = 0, 1, 2  # block types


def _number(field: bytes) -> int:
    return int.from_bytes(field, "little")


def _window(exponent_and_mantissa: int) -> int:
    base = 1 << (10 + (exponent_and_mantissa >> 3))
    return base + base // 8 * (exponent_and_mantissa & 7)


class FrameScanner:
    """Follows zstd data through its frames.

    Each method `_read_…` is a place in the grammar: it gets the `_wanted` bytes that stand
    there, and says what comes next (`_read`, `_wanted`) and how many bytes lie before it (`_body`).

    Args:
        window_limit: bytes; frames with a wider window are refused.
    """

    def __init__(self, window_limit: int) -> None:
        self._window_limit = window_limit
        self._read: Callable[[bytes], int] = self._read_magic
        self._wanted = 4
        self._header = b""  # as much of the wanted bytes as has come
        self._body = 0  # bytes to pass before them
        self._descriptor = 0
        self._block_limit = 0
        self._has_begun = False
        self._makes = 0  # bytes of output, at most, since the last cut
        self.complete = False
        """Whether the data may end here: behind a frame."""

    def cuts(self, data: bytes) -> Iterator[int]:
        """Follow the next bytes, cut anywhere.

        Returns:
            Offsets in `data`, ascending: what lies between a cut and the next, over any number
            of calls, decodes to at most `PIECE` bytes.

        Raises, while it is iterated:
            CodecError: there is no frame here, or none that is legal.
            MemoryLimitError: a window is too wide.
        """
        position = 0
        while position < len(data):
            if self._body:
                passed = min(self._body, len(data) - position)
                self._body -= passed
                position += passed
            else:
                more = data[position : position + self._wanted - len(self._header)]
                position += len(more)
                if makes := self._take(more):
                    if self._makes + makes > PIECE:
                        yield position
                        self._makes = 0
                    self._makes += makes
        self.complete = self._has_begun and self._is_between_frames()

    def _take(self, more: bytes) -> int:
        """Add to the header; when it is whole, read it. Return how much its block makes at most."""
        header = self._header + more
        if len(header) < self._wanted:
            self._header = header
            return 0
        self._header = b""
        return self._read(header)

    def _expect(self, wanted: int) -> int:
        self._wanted = wanted
        return 0

    def _is_between_frames(self) -> bool:
        return self._read == self._read_magic and not self._header and not self._body

    def _read_magic(self, header: bytes) -> int:
        self._has_begun = True
        magic = _number(header)
        if magic == _MAGIC:
            self._read = self._read_descriptor
            return self._expect(1)
        if magic >> 4 == _SKIPPABLE:
            self._read = self._read_skippable
            return self._expect(4)
        raise damaged("zstd", "no frame where one should begin")

    def _read_skippable(self, header: bytes) -> int:
        self._body = _number(header)
        return self._end_frame()

    def _read_descriptor(self, header: bytes) -> int:
        self._descriptor = header[0]
        if self._descriptor & _RESERVED:
            raise damaged("zstd", "reserved bit is set")
        self._read = self._read_parameters
        return self._expect(sum(self._parameter_sizes()))

    def _parameter_sizes(self) -> tuple[int, int, int]:
        """Bytes of window, dictionary id and content size; their sum is never 0."""
        single = bool(self._descriptor & _SINGLE_SEGMENT)
        content = _CONTENT_SIZE[self._descriptor >> 6] or int(single)
        return int(not single), _DICTIONARY_ID[self._descriptor & 3], content

    def _read_parameters(self, header: bytes) -> int:
        window_size, id_size, content_size = self._parameter_sizes()
        if any(header[window_size : window_size + id_size]):
            raise damaged("zstd", "needs a dictionary")
        if window_size:
            window = _window(header[0])
        else:
            # Two bytes say how much more than 256 it is.
            window = _number(header[id_size:]) + (256 if content_size == 2 else 0)  # noqa: PLR2004
        if window > self._window_limit:
            raise too_wide("zstd", self._window_limit, needed=window)
        self._block_limit = min(window, MAX_BLOCK)
        return self._expect_block()

    def _expect_block(self) -> int:
        self._read = self._read_block
        return self._expect(3)

    def _read_block(self, header: bytes) -> int:
        number = _number(header)
        last, kind, size = number & 1, number >> 1 & 3, number >> 3
        if size > self._block_limit:
            raise damaged("zstd", "block is too large")
        if kind > _COMPRESSED:
            raise damaged("zstd", "no such type of block")
        self._body = 1 if kind == _RLE else size
        if last:
            self._end_blocks()
        return self._block_limit if kind == _COMPRESSED else size

    def _end_blocks(self) -> None:
        if self._descriptor & _CHECKSUM:
            self._read = self._read_checksum
            self._expect(4)
        else:
            self._end_frame()

    def _read_checksum(self, _header: bytes) -> int:
        return self._end_frame()

    def _end_frame(self) -> int:
        self._read = self._read_magic
        return self._expect(4)
