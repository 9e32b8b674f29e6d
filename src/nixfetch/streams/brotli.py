"""Brotli. Knows the quirks of the library's streaming interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

import brotli

from nixfetch.streams.decoder import SLICE, damaged, truncated

if TYPE_CHECKING:
    from collections.abc import Iterator

# The library stops when its buffer is at least this long, and lets it grow in steps of
# 32, 64 and 256 KiB: pieces are at most 96 KiB, with 128 KiB they would be up to 352 KiB.
_ENOUGH = 64 * 1024  # bytes


class BrotliDecoder:
    """Decodes one brotli stream, with a window of 16 MiB at most: the format's own limit."""

    def __init__(self) -> None:
        self._library = brotli.Decompressor()

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), SLICE):
            if self._library.is_finished():
                raise damaged("br", "bytes after the end")
            piece = self._process(data[start : start + SLICE])
            while piece:
                yield piece
                # More may come even when the library says that it accepts input.
                piece = b"" if self._library.is_finished() else self._process(b"")

    def finish(self) -> None:
        if not self._library.is_finished():
            raise truncated("br")

    def _process(self, data: bytes) -> bytes:
        try:
            piece: bytes = self._library.process(data, output_buffer_limit=_ENOUGH)
        except brotli.error as error:
            raise damaged("br", str(error)) from error
        return piece
