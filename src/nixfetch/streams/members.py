"""Formats that are members one after another: xz, bzip2, gzip, lzip, lz4. Knows none of them.

A member is one complete stream with a beginning and an end of its own. Programs that
compress in parallel, or append, write several; their outputs follow each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from nixfetch.streams.decoder import PIECE, SLICE, damaged, too_wide, truncated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Member(Protocol):
    """One member being decoded: the interface of `lzma.LZMADecompressor`."""

    @property
    def eof(self) -> bool:
        """Whether its end has been reached."""
        ...

    @property
    def needs_input(self) -> bool:
        """Whether it can go on only with more input."""
        ...

    @property
    def unused_data(self) -> bytes | None:
        """What was given to it after its end."""
        ...

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Take `data`, give at most `max_length` bytes; the rest stays for the next call."""
        ...


class MembersDecoder:
    """Decodes members until the input ends.

    Args:
        compression: its name, for errors.
        begin: makes the decoder of a member; gets the first bytes of it (one at least).
        errors: what the member's library raises for damaged data.
        memory_limit: bytes that `begin` allows a member, for the error that says so.
        padding: zero bytes may stand after each member, in multiples of this; 0: they may not.
        single: there is one member, and nothing may follow.
    """

    def __init__(
        self,
        compression: str,
        begin: Callable[[bytes], Member],
        errors: type[Exception],
        *,
        memory_limit: int,
        padding: int = 0,
        single: bool = False,
    ) -> None:
        self._compression = compression
        self._begin = begin
        self._errors = errors
        self._memory_limit = memory_limit
        self._padding = padding
        self._single = single
        self._member: Member | None = None
        self._complete = False  # at least one member has ended
        self._zeros = 0  # bytes of padding since then

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), SLICE):
            rest = data[start : start + SLICE]
            while rest := self._skip_padding(rest):
                if self._member is None:
                    self._member = self._next_member(rest)
                member = self._member
                yield from self._decode(member, rest)
                if not member.eof:
                    break
                rest = member.unused_data or b""
                self._member = None
                self._complete = True
                self._zeros = 0

    def finish(self) -> None:
        if self._member is not None or not self._complete:
            raise truncated(self._compression)
        if self._is_ragged():
            raise truncated(self._compression)

    def _skip_padding(self, rest: bytes) -> bytes:
        if not self._padding or self._member is not None or not self._complete:
            return rest
        after = rest.lstrip(b"\0")
        self._zeros += len(rest) - len(after)
        if after and self._is_ragged():
            raise damaged(self._compression, "bytes after the end")
        return after

    def _is_ragged(self) -> bool:
        return bool(self._padding and self._zeros % self._padding)

    def _next_member(self, head: bytes) -> Member:
        if self._complete and self._single:
            raise damaged(self._compression, "bytes after the end")
        return self._begin(head)

    def _decode(self, member: Member, data: bytes) -> Iterator[bytes]:
        piece = self._decompress(member, data)
        while True:
            if piece:
                yield piece
            if member.eof or member.needs_input:
                return
            piece = self._decompress(member, b"")

    def _decompress(self, member: Member, data: bytes) -> bytes:
        try:
            return member.decompress(data, PIECE)
        except self._errors as error:
            reason = str(error)
            if reason == "Memory usage limit exceeded":  # lzma has one class for all
                raise too_wide(self._compression, self._memory_limit) from error
            raise damaged(self._compression, reason) from error
