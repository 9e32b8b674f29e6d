"""Heads of requests."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixfetch.serve.request import Request, RequestError


def parse(*lines: str) -> Request:
    return Request.parse("\r\n".join(lines).encode("latin-1"))


def test_a_request() -> None:
    request = parse("GET /nar/a.nar?x=1 HTTP/1.1", "Host: here", "RANGE:  bytes=1-2\t")
    assert request.method == "GET"
    assert request.target == "/nar/a.nar?x=1"
    assert request.name == "nar/a.nar"
    assert request.fields == {"host": "here", "range": "bytes=1-2"}
    assert request.keep_alive
    assert not request.has_body


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/", ""),
        ("//etc", "/etc"),
        ("/a%2Fb%00", "a/b\0"),
        ("/%zz", "%zz"),
        ("http://here:80/nix-cache-info", "nix-cache-info"),
        ("HTTP://here", ""),
        ("http://here?x", ""),
        ("*", "*"),
    ],
)
def test_names_of_targets(target: str, name: str) -> None:
    assert parse(f"GET {target} HTTP/1.1", "Host: here").name == name


def test_a_field_that_comes_twice_is_joined() -> None:
    request = parse("GET / HTTP/1.1", "Host: a", "Accept: x", "accept: y")
    assert request.fields["accept"] == "x, y"


@pytest.mark.parametrize("value", ["close", "keep-alive, Close"])
def test_connection_close(value: str) -> None:
    assert not parse("GET / HTTP/1.1", "Host: a", f"Connection: {value}").keep_alive


def test_http_1_0_is_answered_once_and_needs_no_host() -> None:
    assert not parse("GET / HTTP/1.0").keep_alive


@pytest.mark.parametrize("field", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_a_body_is_seen(field: str) -> None:
    assert parse("POST / HTTP/1.1", "Host: a", field).has_body


def test_an_empty_body_is_none() -> None:
    assert not parse("GET / HTTP/1.1", "Host: a", "Content-Length: 0").has_body


@pytest.mark.parametrize(
    "lines",
    [
        ["", "Host: a"],
        ["GET /", "Host: a"],
        ["GET / HTTP/2.0", "Host: a"],
        ["GET /a b HTTP/1.1", "Host: a"],
        ["GET  / HTTP/1.1", "Host: a"],
        ["GET /\x7f HTTP/1.1", "Host: a"],
        ["GET /é HTTP/1.1", "Host: a"],
        ["GET / HTTP/1.1\nHost: a"],
        ["GET / HTTP/1.1"],
        ["GET / HTTP/1.1", "Host: a", "Host: b"],
        ["GET / HTTP/1.1", "Host: a", "Range: bytes=0-", "Range: bytes=1-"],
        ["GET / HTTP/1.1", "Host: a", "X"],
        ["GET / HTTP/1.1", "Host: a", "X : y"],
        ["GET / HTTP/1.1", "Host: a", " folded"],
        ["GET / HTTP/1.1", "Host: a", "X: a\0b"],
        ["GET / HTTP/1.1", "Host: a", "X: a\nY: b"],
    ],
)
def test_what_is_no_request(lines: list[str]) -> None:
    with pytest.raises(RequestError):
        parse(*lines)


@given(st.binary(max_size=200))
def test_garbage_is_a_request_error_or_a_request(head: bytes) -> None:
    with suppress(RequestError):
        Request.parse(head)
