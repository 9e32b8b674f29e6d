from __future__ import annotations

import pytest

from nixfetch.transport.answers import BrokenAnswerError
from nixfetch.transport.http1.head import MAX_FIELDS, Head, end_of, not_http, parse


def test_an_answer() -> None:
    head = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A:b \r\nx-a: \tc\r\n\r\n")
    assert head.status == 200
    assert head.values(b"content-length") == [b"3"]
    assert head.values(b"x-a") == [b"b", b"c"]
    assert head.values(b"x-b") == []


@pytest.mark.parametrize(
    "block",
    [
        b"HTTP/1.0 204 \r\n\r\n",
        b"HTTP/1.1 404\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 200 \xfc\r\n\r\n",
    ],
)
def test_short_answers(block: bytes) -> None:
    assert parse(block).fields == []
    assert end_of(block) == len(block)
    assert end_of(block + b"body", len(block) - 4) == len(block)
    assert end_of(block[:-1]) == -1


@pytest.mark.parametrize(
    "block",
    [
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nName : x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\rc: d\r\n\r\n",
    ],
)
def test_what_is_no_answer(block: bytes) -> None:
    with pytest.raises(BrokenAnswerError) as caught:
        parse(block)
    assert caught.value.retryable


def test_a_bare_line_feed_ends_a_head_whatever_the_body_says() -> None:
    block = b"HTTP/1.1 200 OK\n\n"
    assert end_of(block + b"a\r\n\r\nb") == len(block)


@pytest.mark.parametrize("blanks", [b" " * 60_000, b" \t" * 30_000, b"a " * 30_000])
@pytest.mark.parametrize("end", [b"", b"b", b"\x00"])
def test_many_blanks_are_no_work(blanks: bytes, end: bytes) -> None:
    block = b"HTTP/1.1 200 OK\r\nA:" + blanks + end + b"\r\n\r\n"
    if end == b"\x00":
        with pytest.raises(BrokenAnswerError):
            parse(block)
    else:
        assert parse(block).values(b"a") == [(blanks + end).strip()]


def test_too_many_fields() -> None:
    line = b"A: b\r\n"
    assert len(parse(b"HTTP/1.1 200 OK\r\n" + line * MAX_FIELDS + b"\r\n").fields) == MAX_FIELDS
    with pytest.raises(BrokenAnswerError):
        parse(b"HTTP/1.1 200 OK\r\n" + line * (MAX_FIELDS + 1) + b"\r\n")


@pytest.mark.parametrize(
    ("minor", "connection", "kept"),
    [
        (1, [], True),
        (0, [], False),
        (1, [b"close"], False),
        (1, [b"Upgrade, Close"], False),
        (0, [b"Keep-Alive"], True),
        (1, [b"x", b"close"], False),
    ],
)
def test_connections_that_stay(minor: int, connection: list[bytes], *, kept: bool) -> None:
    head = Head(200, minor, [(b"Connection", value) for value in connection])
    assert head.keeps_open is kept


def test_a_server_that_talks_something_else() -> None:
    tls = not_http(b"\x15\x03\x01\x00\x02")
    assert "TLS" in tls.problem
    assert not tls.retryable
    assert not_http(b"SSH-2.0").facts["begins"] == "b'SSH-2.0'"
