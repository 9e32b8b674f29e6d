"""Where the body of an HTTP/1.1 answer ends. Knows no sockets: bytes come by a function.

A length that is said twice and not the same is how answers are smuggled into each other: refused.
Chunks beat a length, as RFC 9112 section 6.3 has it, and the connection ends with such an answer
(`ambiguous`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from nixfetch.errors import TransportError
from nixfetch.transport.answers import BrokenAnswerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nixfetch.transport.http1.head import Head

MAX_LINE = 4096  # bytes of a chunk's header, with its extensions
MAX_TRAILERS = 16 * 1024  # bytes
# Bytes around the chunks of a body: so many, and so many more for each byte of it. Chunks of one
# byte have 5. A remote that sends more makes us wait for nothing, at a rate that looks good.
MAX_WRAPPING = 64 * 1024
WRAPPING = 8

_LENGTH = re.compile(rb"[0-9]{1,19}")
_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;.*)?")
_WITHOUT_BODY = frozenset({204, 304})
CHUNKED = -1
UNTIL_CLOSE = -2


class Incoming(Protocol):
    """The bytes of a connection, in order."""

    @property
    def buffered(self) -> int:
        """Bytes that can be had without waiting."""
        ...

    def some(self, most: int) -> bytes:
        """The next bytes, at least one and at most `most`; none when there are no more."""
        ...

    def line(self, most: int) -> bytes:
        """The next line, without its end.

        Raises:
            BrokenAnswerError: it is longer than `most` bytes.
        """
        ...


def framing(head: Head) -> int:
    """Bytes of the body, `CHUNKED`, or `UNTIL_CLOSE`.

    Raises:
        BrokenAnswerError: the head contradicts itself.
    """
    if head.status in _WITHOUT_BODY:
        return 0
    encodings = head.values(b"transfer-encoding")
    lengths = set(head.values(b"content-length"))
    if encodings:
        if [each.lower() for each in encodings] != [b"chunked"] or not head.minor:
            raise BrokenAnswerError(
                "unknown transfer encoding", encoding=repr(b", ".join(encodings))
            )
        return CHUNKED
    if not lengths:
        return UNTIL_CLOSE
    [length, *others] = lengths
    if others or not _LENGTH.fullmatch(length):
        raise BrokenAnswerError("answer without a usable Content-Length", retryable=True)
    return int(length)


def ambiguous(head: Head) -> bool:
    """Whether somebody on the way may think that the body ends elsewhere."""
    return bool(head.values(b"transfer-encoding") and head.values(b"content-length"))


def body(incoming: Incoming, length: int, *, piece: int) -> Iterator[bytes]:
    """The body that `framing` says `length` of, in pieces of at most `piece` bytes.

    Raises:
        TransportError: it ends early, retryable.
        BrokenAnswerError: the chunks are malformed.
    """
    if length == CHUNKED:
        yield from _gathered(incoming, _chunked(incoming, piece), piece)
    elif length == UNTIL_CLOSE:
        while data := incoming.some(piece):
            yield data
    else:
        yield from _exactly(incoming, length, piece)


def _exactly(incoming: Incoming, size: int, piece: int) -> Iterator[bytes]:
    left = size
    while left:
        data = incoming.some(min(left, piece))
        if not data:
            raise TransportError("body ended early", retryable=True)
        left -= len(data)
        yield data


def _gathered(incoming: Incoming, pieces: Iterator[bytes], most: int) -> Iterator[bytes]:
    """Small pieces that came together as one: each costs its reader as much as a large one."""
    gathered: list[bytes] = []
    size = 0
    for data in pieces:
        if size + len(data) > most:
            yield b"".join(gathered)
            gathered, size = [], 0
        gathered.append(data)
        size += len(data)
        if not incoming.buffered:
            yield b"".join(gathered)  # which copies nothing where there is but one
            gathered, size = [], 0
    if gathered:
        yield b"".join(gathered)


def _chunked(incoming: Incoming, piece: int) -> Iterator[bytes]:
    wrapping = MAX_WRAPPING
    while True:
        line = incoming.line(MAX_LINE)
        header = _SIZE.fullmatch(line)
        if header is None:
            raise BrokenAnswerError("malformed chunk in the answer", retryable=True)
        size = int(header[1], 16)
        if not size:
            break
        yield from _exactly(incoming, size, piece)
        if incoming.line(2):
            raise BrokenAnswerError("malformed chunk in the answer", retryable=True)
        wrapping += WRAPPING * size - len(line)
        if wrapping < 0:
            raise BrokenAnswerError("more chunk extensions than body", limit=MAX_WRAPPING)
    left = MAX_TRAILERS
    while line := incoming.line(left):
        left -= len(line) + 1
        if left <= 0:
            raise BrokenAnswerError("too many trailers behind the answer", limit=MAX_TRAILERS)
