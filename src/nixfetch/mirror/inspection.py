"""A file on its way to the mirror, looked at: is it what the narinfo names, and what was signed?"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from nixfetch.errors import TrustError
from nixfetch.formats import listing
from nixfetch.formats.hashes import Hash
from nixfetch.formats.nar import Contents, NarReader
from nixfetch.mirror.recipe import HASHES
from nixfetch.streams import codecs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nixfetch.formats.listing import Node
    from nixfetch.formats.nar.events import Event
    from nixfetch.formats.narinfo import NarInfo


_SLACK = 1024 * 1024  # bytes that a compressed NAR may be larger than an eighth above its NAR


class WrongFileError(TrustError):
    """The file of a NAR is not the one that its narinfo names."""


class WrongNarError(TrustError):
    """The NAR in a file is not the one that was vouched for."""


class Inspection:
    """Looks at a file on its way. Take `file` or `nar` to its end, then `finish`."""

    def __init__(
        self, info: NarInfo, chunks: Iterator[bytes], *, decode: bool, list_it: bool = False
    ) -> None:
        """Begin.

        Args:
            info: what the file should be.
            chunks: of the file.
            decode: look into it too.
            list_it: make the listing of what is in it.
        """
        self._info = info
        self._chunks = chunks
        self._size = 0
        # Nobody signs the size of a file. But no codec makes data larger by an eighth.
        most = info.nar_size + info.nar_size // 8 + _SLACK
        self._limit = most if info.file_size is None else min(info.file_size, most)
        expected = info.file_hash
        known = expected is not None and expected.algorithm in HASHES
        self._file_digest = hashlib.new(expected.algorithm) if expected and known else None
        self._decoder = codecs.decoder(info.compression) if decode else None
        self._nar_digest = hashlib.sha256()
        self._nar_size = 0
        # Who does not list has no use for its parts: what was signed is all of it.
        self._reader = NarReader(max_size=info.nar_size) if list_it else None
        self._events: list[Event] = []
        self.listing: Node | None = None
        """Of what is in it, where that was wanted, when it is finished."""

    def file(self) -> Iterator[bytes]:
        """The file's bytes."""
        for chunk in self._chunks:
            self._count(chunk)
            if self._decoder is not None:
                for piece in self._decoder.feed(chunk):
                    self._look(piece)
            yield chunk

    def nar(self) -> Iterator[bytes]:
        """The bytes of the NAR in it."""
        assert self._decoder is not None
        for chunk in self._chunks:
            self._count(chunk)
            for piece in self._decoder.feed(chunk):
                self._look(piece)
                yield piece

    def _count(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size > self._limit:
            raise WrongFileError("file is larger than it can be", limit=self._limit)
        if self._file_digest is not None:
            self._file_digest.update(chunk)

    def _look(self, piece: bytes) -> None:
        self._nar_size += len(piece)
        if self._nar_size > self._info.nar_size:
            raise WrongNarError("archive is larger than signed", expected=self._info.nar_size)
        self._nar_digest.update(piece)
        if self._reader is not None:
            events = self._reader.feed(piece)
            self._events += (event for event in events if not isinstance(event, Contents))

    def finish(self) -> None:
        """Say that all has come, and check the whole.

        Raises:
            WrongFileError: it is not the file that the narinfo names.
            WrongNarError: what is in it is not what was vouched for.
            CodecError, NarError: it is not whole, or no NAR.
        """
        info = self._info
        if info.file_size is not None and self._size != info.file_size:
            raise WrongFileError(
                "file has the wrong size", expected=info.file_size, actual=self._size
            )
        if self._file_digest is not None and info.file_hash is not None:
            actual = Hash(info.file_hash.algorithm, self._file_digest.digest())
            if actual != info.file_hash:
                raise WrongFileError(
                    "file has the wrong hash", expected=str(info.file_hash), actual=str(actual)
                )
        if self._decoder is not None:
            self._decoder.finish()
            self._finish_nar()

    def _finish_nar(self) -> None:
        info = self._info
        if self._nar_size != info.nar_size:
            raise WrongNarError(
                "archive has the wrong size", expected=info.nar_size, actual=self._nar_size
            )
        actual = Hash("sha256", self._nar_digest.digest())
        if actual != info.nar_hash:
            raise WrongNarError(
                "archive has the wrong hash", expected=str(info.nar_hash), actual=str(actual)
            )
        if self._reader is not None:
            self._reader.finish()
            self.listing = listing.of_nar(self._events)
