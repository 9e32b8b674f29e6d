"""zstd. Knows how to feed the library so that its output stays small; `zstd_frames` says where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zstandard

from nixfetch.streams.decoder import PIECE, damaged, truncated
from nixfetch.streams.zstd_frames import MAX_WINDOW, FrameScanner

if TYPE_CHECKING:
    from collections.abc import Iterator


class ZstdDecoder:
    """Decodes any number of frames, skippable ones among them.

    The library checks a frame's content size when the last block holds something; with an
    empty one it does so only when it sees the frame in one go. Nothing is lost by that: what
    counts is the NAR's own size.

    Args:
        memory_limit: bytes of window; more than 128 MiB counts as 128 MiB.
    """

    def __init__(self, memory_limit: int) -> None:
        self._frames = FrameScanner(min(memory_limit, MAX_WINDOW))
        self._library = zstandard.ZstdDecompressor().decompressobj(
            write_size=PIECE, read_across_frames=True
        )

    def feed(self, data: bytes) -> Iterator[bytes]:
        view = memoryview(data)
        start = 0
        for cut in self._frames.cuts(data):
            if piece := self._decompress(view[start:cut]):
                yield piece
            start = cut
        if piece := self._decompress(view[start:]):
            yield piece

    def finish(self) -> None:
        if not self._frames.complete:
            raise truncated("zstd")

    def _decompress(self, data: memoryview) -> bytes:
        try:
            return self._library.decompress(data)
        except zstandard.ZstdError as error:
            raise damaged("zstd", str(error)) from error
