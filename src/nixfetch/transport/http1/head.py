"""The head of an HTTP/1.1 answer: bytes to values, strict and bounded. Knows no sockets.

Source: RFC 9112, sections 2 to 5.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from nixfetch.transport.answers import BrokenAnswerError

MAX_HEAD = 64 * 1024  # bytes, those of interim answers with it; servers stop at 8 to 16 KiB
MAX_FIELDS = 256
MAX_INTERIM = 8  # 1xx answers before one answer; real servers send one

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
# Blanks around the value are taken off afterwards: a pattern that does it tries all ways to split
# 60 KiB of blanks, and then the next one.
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([^\x00-\x08\x0a-\x1f\x7f]*)")
_TLS_RECORDS = b"\x15\x16"  # alert, handshake: the first byte of a server that talks TLS
_SHOWN = 40  # bytes of what is no answer


class Head(NamedTuple):
    """Status and fields of an answer."""

    status: int
    minor: int
    """0 or 1: the version of HTTP/1."""
    fields: list[tuple[bytes, bytes]]
    """In order; names as they were sent."""

    def values(self, name: bytes) -> list[bytes]:
        """The values of all fields called `name`, which is in lower case."""
        return [value for field, value in self.fields if field.lower() == name]

    @property
    def keeps_open(self) -> bool:
        """Whether the connection is good for another request, when the body has an end."""
        tokens = {
            token.strip().lower()
            for value in self.values(b"connection")
            for token in value.split(b",")
        }
        return b"close" not in tokens and (self.minor == 1 or b"keep-alive" in tokens)


def end_of(data: bytes | bytearray, start: int = 0) -> int:
    """Offset behind the empty line that ends a head; -1 where it has not come yet.

    Args:
        data: what has come.
        start: where to look from; a few bytes before what is new.
    """
    strict = data.find(b"\r\n\r\n", start)
    # RFC 9112 section 2.2 allows a bare LF; what stands behind it is the body's.
    bare = data.find(b"\n\n", start, strict if strict >= 0 else None)
    if bare >= 0:
        return bare + 2
    return strict + 4 if strict >= 0 else -1


def parse(block: bytes) -> Head:
    """Parse a head, its empty line included.

    Raises:
        BrokenAnswerError: it is none; not `retryable` where the server talks something else.
    """
    first, *lines = block.replace(b"\r\n", b"\n").removesuffix(b"\n\n").split(b"\n")
    status = _STATUS.fullmatch(first)
    if status is None:
        raise not_http(block)
    if len(lines) > MAX_FIELDS:
        raise BrokenAnswerError("answer has too many header fields", limit=MAX_FIELDS)
    fields = []
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise BrokenAnswerError("malformed header field in the answer", retryable=True)
        fields.append((field[1], field[2].strip(b" \t")))
    return Head(int(status[2]), int(status[1]), fields)


def not_http(data: bytes) -> BrokenAnswerError:
    """What to say of an answer that begins with `data`, which is not HTTP/1."""
    if data[:1] in {_TLS_RECORDS[:1], _TLS_RECORDS[1:]}:
        return BrokenAnswerError(
            "remote talks TLS on this port", hint="write https:// in the cache's URL"
        )
    return BrokenAnswerError(
        "answer is not HTTP", retryable=True, begins=repr(bytes(data[:_SHOWN]))
    )
