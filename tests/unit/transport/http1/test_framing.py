from __future__ import annotations

import pytest

from nixfetch.errors import TransportError
from nixfetch.transport.answers import BrokenAnswerError
from nixfetch.transport.http1.framing import (
    CHUNKED,
    MAX_LINE,
    UNTIL_CLOSE,
    ambiguous,
    body,
    framing,
)
from nixfetch.transport.http1.head import Head


class Bytes:
    """What has come and will come, at most `step` bytes at a time."""

    def __init__(self, data: bytes, step: int = 3) -> None:
        self.left = data
        self._step = step

    @property
    def buffered(self) -> int:
        return len(self.left) % 2  # as if packets had an odd number of bytes

    def some(self, most: int) -> bytes:
        most = min(most, self._step)
        data, self.left = self.left[:most], self.left[most:]
        return data

    def line(self, most: int) -> bytes:
        line, end, rest = self.left.partition(b"\n")
        if len(line) >= most:
            raise BrokenAnswerError("too long")
        if not end:
            raise TransportError("body ended early", retryable=True)
        self.left = rest
        return line.removesuffix(b"\r")


def head(*fields: tuple[bytes, bytes], status: int = 200, minor: int = 1) -> Head:
    return Head(status, minor, list(fields))


LENGTH = b"Content-Length"
ENCODING = b"Transfer-Encoding"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (head(), UNTIL_CLOSE),
        (head((LENGTH, b"0")), 0),
        (head((LENGTH, b"12")), 12),
        (head((LENGTH, b"12"), (b"content-length", b"12")), 12),
        (head((ENCODING, b"Chunked")), CHUNKED),
        (head((ENCODING, b"chunked"), (LENGTH, b"12")), CHUNKED),
        (head((LENGTH, b"12"), status=204), 0),
        (head(status=304), 0),
    ],
)
def test_lengths(answer: Head, expected: int) -> None:
    assert framing(answer) == expected


@pytest.mark.parametrize(
    "answer",
    [
        head((LENGTH, b"12"), (LENGTH, b"13")),
        head((LENGTH, b"12, 12")),
        head((LENGTH, b"-1")),
        head((LENGTH, b"+1")),
        head((LENGTH, b"1_0")),
        head((LENGTH, b"")),
        head((LENGTH, b"9" * 20)),
        head((ENCODING, b"gzip, chunked")),
        head((ENCODING, b"gzip"), (ENCODING, b"chunked")),
        head((ENCODING, b"identity")),
        head((ENCODING, b"chunked"), minor=0),
    ],
)
def test_heads_that_contradict_themselves(answer: Head) -> None:
    with pytest.raises(BrokenAnswerError):
        framing(answer)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (head((ENCODING, b"chunked")), False),
        (head((LENGTH, b"12")), False),
        (head((ENCODING, b"chunked"), (LENGTH, b"12")), True),
    ],
)
def test_heads_that_say_two_things(answer: Head, *, expected: bool) -> None:
    assert ambiguous(answer) is expected


def test_bodies() -> None:
    incoming = Bytes(b"0123456789rest")
    assert list(body(incoming, 10, piece=256)) == [b"012", b"345", b"678", b"9"]
    assert list(body(Bytes(b"0123"), UNTIL_CLOSE, piece=2)) == [b"01", b"23"]
    assert list(body(Bytes(b""), 0, piece=2)) == []
    chunks = b"4;name=value\r\n0123\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nrest"
    incoming = Bytes(chunks)
    assert b"".join(body(incoming, CHUNKED, piece=256)) == b"01230123456789"
    assert incoming.left == b"rest"


@pytest.mark.parametrize("length", [5, 10**18])
def test_a_body_that_ends_early(length: int) -> None:
    with pytest.raises(TransportError) as caught:
        list(body(Bytes(b"0123"), length, piece=256))
    assert caught.value.retryable


def test_chunks_of_one_byte_and_a_long_extension_at_times() -> None:
    chunks = b"1\r\nx\r\n" * 3_000 + b"1;" + b"x" * 4000 + b"\r\nx\r\n0\r\n\r\n"
    assert sum(map(len, body(Bytes(chunks), CHUNKED, piece=256))) == 3_001


def test_more_wrapping_than_body() -> None:
    chunk = b"1;" + b"x" * 4000 + b"\r\nx\r\n"
    with pytest.raises(BrokenAnswerError, match="more chunk extensions than body"):
        list(body(Bytes(chunk * 30), CHUNKED, piece=256))


@pytest.mark.parametrize(
    "chunks",
    [
        b"x\r\n",
        b"-1\r\n",
        b"0x4\r\n0123\r\n0\r\n\r\n",
        b"1" * 16 + b"\r\n",
        b"4\r\n0123456\r\n0\r\n\r\n",
        b"4;" + b"x" * MAX_LINE + b"\r\n0123\r\n0\r\n\r\n",
        b"4\r\n01",
        b"4\r\n0123\r\n",
        b"0\r\n" + b"A: b\r\n" * 4000 + b"\r\n",
    ],
)
def test_chunks_that_are_none(chunks: bytes) -> None:
    with pytest.raises(TransportError):
        list(body(Bytes(chunks), CHUNKED, piece=256))
