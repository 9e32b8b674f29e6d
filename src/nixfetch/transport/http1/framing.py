"""Where the body of an HTTP/1.1 answer ends. Knows no sockets: bytes come by a function.

A length that is said twice and not the same, or with a chunked body, is how answers are
smuggled into each other: refused, where RFC 9112 section 6.3 lets a client choose.
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

_LENGTH = re.compile(rb"[0-9]{1,19}")
_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;.*)?")
_WITHOUT_BODY = frozenset({204, 304})
CHUNKED = -1
UNTIL_CLOSE = -2


class Incoming(Protocol):
    """The bytes of a connection, in order."""

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


def body(incoming: Incoming, length: int, *, piece: int) -> Iterator[bytes]:
    """The body that `framing` says `length` of, in pieces of at most `piece` bytes.

    Raises:
        TransportError: it ends early, retryable.
        BrokenAnswerError: the chunks are malformed.
    """
    if length == CHUNKED:
        yield from _chunked(incoming, piece)
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


def _chunked(incoming: Incoming, piece: int) -> Iterator[bytes]:
    while True:
        header = _SIZE.fullmatch(incoming.line(MAX_LINE))
        if header is None:
            raise BrokenAnswerError("malformed chunk in the answer", retryable=True)
        size = int(header[1], 16)
        if not size:
            break
        yield from _exactly(incoming, size, piece)
        if incoming.line(2):
            raise BrokenAnswerError("malformed chunk in the answer", retryable=True)
    left = MAX_TRAILERS
    while line := incoming.line(left):
        left -= len(line) + 1
        if left <= 0:
            raise BrokenAnswerError("too many trailers behind the answer", limit=MAX_TRAILERS)
