"""What a request gets."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from nixfetch.serve import Object, answers
from nixfetch.serve.answers import UnsatisfiableError, range_of
from nixfetch.serve.request import Request

DATA = b"0123456789"


def found(*, tag: str | None = "t", whole_tail: bool = False) -> Object:
    return Object(
        size=len(DATA),
        media_type="text/x",
        read=lambda start, stop: iter([DATA[start:stop]]),
        tag=tag,
        whole_tail=whole_tail,
    )


def request(method: str = "GET", **fields: str) -> Request:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return Request.parse("\r\n".join([f"{method} / HTTP/1.1", "Host: a", *lines]).encode())


def body(answer: answers.Answer) -> bytes:
    whole = b"".join(answer.body)
    assert len(whole) == answer.size
    return whole


@pytest.mark.parametrize(
    ("field", "span"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=3-", (3, 10)),
        ("bytes=3-99", (3, 10)),
        ("bytes=-4", (6, 10)),
        ("bytes=-99", (0, 10)),
        ("bytes= 1-2 ", (1, 3)),
        ("bytes=5-4", None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("lines=0-1", None),
        ("bytes=a-b", None),
        ("bytes=1", None),
        ("bytes=" + "9" * 20 + "-", None),
    ],
)
def test_ranges(field: str, span: tuple[int, int] | None) -> None:
    assert range_of(field, 10) == span


@pytest.mark.parametrize("field", ["bytes=10-", "bytes=10-12", "bytes=-0"])
def test_ranges_behind_the_end(field: str) -> None:
    with pytest.raises(UnsatisfiableError):
        range_of(field, 10)


def test_a_whole_object() -> None:
    answer = answers.of(found(), request())
    assert answer.status == HTTPStatus.OK
    assert ("ETag", '"t"') in answer.fields
    assert ("Accept-Ranges", "bytes") in answer.fields
    assert body(answer) == DATA


def test_a_part() -> None:
    answer = answers.of(found(), request(Range="bytes=2-4", If_Range='"t"'))
    assert answer.status == HTTPStatus.PARTIAL_CONTENT
    assert ("Content-Range", "bytes 2-4/10") in answer.fields
    assert body(answer) == b"234"


@pytest.mark.parametrize("validator", ['"other"', 'W/"t"', "t", "Tue, 24 Nov 2026 06:16:24 GMT"])
def test_another_version_is_sent_whole(validator: str) -> None:
    answer = answers.of(found(), request(Range="bytes=2-4", If_Range=validator))
    assert (answer.status, body(answer)) == (HTTPStatus.OK, DATA)


def test_head_has_no_ranges() -> None:
    assert answers.of(found(), request("HEAD", Range="bytes=2-4")).status == HTTPStatus.OK


def test_an_object_without_a_tag_has_no_ranges() -> None:
    answer = answers.of(found(tag=None), request(Range="bytes=2-4"))
    assert (answer.status, body(answer)) == (HTTPStatus.OK, DATA)
    assert "Accept-Ranges" not in dict(answer.fields)


@pytest.mark.parametrize(("field", "status"), [("bytes=2-4", 200), ("bytes=2-", 206)])
def test_what_is_checked_at_its_end_is_sent_to_its_end(field: str, status: int) -> None:
    assert answers.of(found(whole_tail=True), request(Range=field)).status == status


def test_a_range_behind_the_end() -> None:
    answer = answers.of(found(), request(Range="bytes=10-"))
    assert answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
    assert answer.fields == (("Content-Range", "bytes */10"),)
    assert body(answer) == b""


def test_nothing_there() -> None:
    answer = answers.of(None, request())
    assert (answer.status, body(answer)) == (HTTPStatus.NOT_FOUND, b"not found\n")


def test_a_head() -> None:
    answer = answers.refusal(HTTPStatus.METHOD_NOT_ALLOWED)
    assert answer.head(date="today", close=True) == (
        b"HTTP/1.1 405 Method Not Allowed\r\nServer: nixfetch\r\nDate: today\r\n"
        b"Content-Length: 19\r\nContent-Type: text/plain\r\nAllow: GET, HEAD\r\n"
        b"Connection: close\r\n\r\n"
    )
