"""HTTP by itself: answers come from a function, hosts from a table."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import httpx
import pytest

from nixfetch.errors import TransportError
from nixfetch.transport import (
    Basic,
    NotFoundError,
    Range,
    UrlError,
)
from nixfetch.transport.http import HttpTransport

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BASE = "https://cache.example/nix"
NAMES = {
    "cache.example": ["93.184.216.34"],
    "bucket.example": ["151.101.1.6"],
    "cache.lan": ["10.0.0.7"],
    "minio.lan": ["10.0.0.8"],
    "here.example": ["127.0.0.1"],
}


class Stream(httpx.SyncByteStream):
    """A body that comes in pieces, or breaks off with an error."""

    def __init__(self, pieces: tuple[bytes | Exception, ...]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece


class Page:
    """A canned answer."""

    def __init__(
        self,
        *pieces: bytes | Exception,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._pieces = pieces
        self._status = status
        self._headers = headers or {}

    def response(self) -> httpx.Response:
        return httpx.Response(self._status, headers=self._headers, stream=Stream(self._pieces))


MISSING = Page(b"none", status=404)


class Web:
    """A whole web of canned answers, by URL; what is not there is 404."""

    def __init__(self, answers: Mapping[str, Page]) -> None:
        self._answers = answers
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._answers.get(str(request.url), MISSING).response()

    def urls(self) -> list[str]:
        return [str(request.url) for request in self.requests]

    def transport(self, base: str = BASE, *, credentials: Basic | None = None) -> HttpTransport:
        return HttpTransport(
            base,
            httpx.MockTransport(self),
            credentials=credentials,
            resolver=lambda host: NAMES.get(host, []),
            now=lambda: 0.0,
        )


def redirect(target: str, status: int = 302) -> Page:
    return Page(status=status, headers={"location": target})


def read(transport: HttpTransport, name: str, wanted: Range | None = None) -> bytes:
    with transport.open(name, wanted) as body:
        return b"".join(body.chunks)


def failure(transport: HttpTransport, name: str, wanted: Range | None = None) -> TransportError:
    with pytest.raises(TransportError) as caught:
        read(transport, name, wanted)
    assert str(caught.value)
    return caught.value


# Names and the base URL


@pytest.mark.parametrize(
    ("base", "name", "asked"),
    [
        (BASE, "nar/x.nar.xz", f"{BASE}/nar/x.nar.xz"),
        (BASE + "///", "x", f"{BASE}/x"),
        ("https://cache.example", "x", "https://cache.example/x"),
        (BASE, "nar/a+b=c%20d%2525", f"{BASE}/nar/a+b=c%20d%2525"),
        (BASE, "nar/x.nar?hash=1&b#fragment", f"{BASE}/nar/x.nar?hash=1&b"),
        (BASE, "nar/ü", f"{BASE}/nar/%C3%BC"),
        (BASE, "x:443/y".replace(":", "%3A"), f"{BASE}/x%3A443/y"),
        (BASE, "https://bucket.example/y", "https://bucket.example/y"),
        (BASE, "HTTPS://cache.example/y", "https://cache.example/y"),
    ],
)
def test_what_is_asked_for(base: str, name: str, asked: str) -> None:
    web = Web({asked: Page(b"data")})
    assert read(web.transport(base), name) == b"data"
    [request] = web.requests
    assert request.url.raw_path.decode() == httpx.URL(asked).raw_path.decode()


def test_we_ask_for_no_encoding_and_keep_no_cookies() -> None:
    cookie = {"set-cookie": "id=1; Domain=cache.example"}
    web = Web({f"{BASE}/x": Page(headers=cookie)})
    transport = web.transport()
    read(transport, "x")
    read(transport, "x")
    for request in web.requests:
        assert request.headers["accept-encoding"] == "identity"
        assert request.headers["user-agent"] == "nixfetch"
        assert "cookie" not in request.headers


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(status: int) -> None:
    target = "https://bucket.example/y?X-Amz-Signature=1"
    web = Web({f"{BASE}/x": redirect(target, status), target: Page(b"ok")})
    assert read(web.transport(), "x") == b"ok"


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        ("y", f"{BASE}/nar/y"),
        ("../y", f"{BASE}/y"),
        ("/y", "https://cache.example/y"),
        ("//bucket.example/y", "https://bucket.example/y"),
        ("?y", f"{BASE}/nar/x?y"),
        ("https://bucket.example", "https://bucket.example"),
    ],
)
def test_redirects_are_relative_to_where_they_came_from(location: str, asked: str) -> None:
    web = Web({f"{BASE}/nar/x": redirect(location), asked: Page(b"ok")})
    assert read(web.transport(), "nar/x") == b"ok"


def test_five_redirects_and_no_more() -> None:
    web = Web({f"{BASE}/{n}": redirect(f"{n + 1}") for n in range(6)} | {f"{BASE}/6": Page(b"ok")})
    assert read(web.transport(), "1") == b"ok"
    assert failure(web.transport(), "0").problem == "too many redirects"
    assert len(web.requests) == 12


def test_a_redirect_in_a_circle_ends() -> None:
    web = Web({f"{BASE}/x": redirect("x")})
    assert not failure(web.transport(), "x").retryable
    assert len(web.requests) == 6


TARGETS = [
    "file:///etc/passwd",
    "ftp://bucket.example/x",
    "gopher://bucket.example/x",
    "data:text/plain,x",
    "javascript:alert(1)",
    "http://bucket.example/x",
    "http://cache.example/nix/x",
    "https://127.0.0.1/x",
    "https://127.1/x",
    "https://2130706433/x",
    "https://[::1]/x",
    "https://[::ffff:127.0.0.1]/x",
    "https://0.0.0.0/x",
    "https://here.example/x",
    "https://here.example./x",
    "https://HERE.example/x",
    "https://minio.lan/x",
    "https://192.168.1.1/x",
    "https://100.64.0.1/x",
    "https://169.254.169.254/latest/meta-data/",
    "https://[fe80::1]/x",
    "https://[fd00:ec2::254]/latest/",
    "https://bucket.example\\@127.0.0.1/x",
    "https://user:pw@127.0.0.1/x",
    "https://",
    "https:///x",
    "https://bucket.example:99999/x",
    "https://bucket.example:0/x",
    "https://bucket.example:x/x",
    "https://[::1/x",
    "https://[1.2.3.4]/x",
    "//[::1/x",
    "https://a..b/x",
    "https://" + "a" * 64 + "/x",
    "https://%31%32%37.0.0.1/x",
    "https://xn--zzzzzz-.example/x",
    "https://bucket.example/" + "x" * 9000,
]


@pytest.mark.parametrize("target", TARGETS)
def test_redirects_that_are_refused(target: str) -> None:
    web = Web({f"{BASE}/x": redirect(target)})
    transport = web.transport()
    transport._boundary._resolver = lambda host: (
        ["127.0.0.1"] if host[0] in "12" else NAMES.get(host.rstrip("."), [])
    )
    error = failure(transport, "x")
    assert isinstance(error, UrlError)
    assert not error.retryable
    assert error.facts["url"] == f"{BASE}/x"
    assert "pw" not in str(error)
    assert web.urls() == [f"{BASE}/x"]


@pytest.mark.parametrize("target", TARGETS)
def test_absolute_urls_that_are_refused(target: str) -> None:
    web = Web({})
    transport = web.transport()
    transport._boundary._resolver = lambda host: (
        ["127.0.0.1"] if host[0] in "12" else NAMES.get(host.rstrip("."), [])
    )
    error = failure(transport, target)
    assert isinstance(error, UrlError)
    assert not error.retryable
    assert "pw" not in str(error)
    assert web.requests == []


def test_a_cache_over_http_may_send_us_to_https() -> None:
    web = Web(
        {
            "http://cache.example/x": redirect("https://cache.example/x"),
            "https://cache.example/x": Page(b"ok"),
        }
    )
    assert read(web.transport("http://cache.example"), "x") == b"ok"


def test_and_then_not_back() -> None:
    web = Web(
        {
            "http://cache.example/x": redirect("https://bucket.example/x"),
            "https://bucket.example/x": redirect("http://bucket.example/y"),
        }
    )
    error = failure(web.transport("http://cache.example"), "x")
    assert error.problem == "redirect from https to http"
    assert error.facts["redirected_to"] == "https://bucket.example/x"


def test_a_cache_in_a_private_network_may_name_its_neighbours_but_not_us() -> None:
    web = Web(
        {
            "http://cache.lan/x": redirect("http://minio.lan:9000/x"),
            "http://minio.lan:9000/x": Page(b"ok"),
            "http://cache.lan/y": redirect("http://127.0.0.1/y"),
            "http://cache.lan/z": redirect("http://169.254.169.254/z"),
        }
    )
    transport = web.transport("http://cache.lan")
    assert read(transport, "x") == b"ok"
    assert isinstance(failure(transport, "y"), UrlError)
    assert isinstance(failure(transport, "z"), UrlError)


def test_a_redirect_without_a_target_is_an_error() -> None:
    web = Web({f"{BASE}/x": Page(status=302)})
    assert failure(web.transport(), "x").facts["status"] == 302


def test_errors_behind_a_redirect_say_so_and_keep_signatures_to_themselves() -> None:
    web = Web({f"{BASE}/x": redirect("https://bucket.example/y?X-Amz-Signature=hush")})
    error = failure(web.transport(), "x")
    assert isinstance(error, NotFoundError)
    assert error.facts == {
        "status": 404,
        "url": f"{BASE}/x",
        "redirected_to": "https://bucket.example/y?X-Amz-Signature=REDACTED",
    }


# Credentials


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("base", "credentials", "sent"),
    [
        ("https://user:p%40w@cache.example", None, basic("user", "p@w")),
        ("https://user@cache.example", None, basic("user", "")),
        ("https://cache.example", Basic("netrc", "pw"), basic("netrc", "pw")),
        ("https://user:pw@cache.example", Basic("netrc", "pw"), basic("user", "pw")),
        ("https://cache.example", None, None),
    ],
)
def test_credentials_are_sent_to_the_cache(
    base: str, credentials: Basic | None, sent: str | None
) -> None:
    web = Web({"https://cache.example/x": Page()})
    transport = web.transport(base, credentials=credentials)
    read(transport, "x")
    assert web.requests[0].headers.get("authorization") == sent
    assert transport.url == "https://cache.example"
    assert "p%40w" not in str(failure(transport, "none").facts)


@pytest.mark.parametrize("base", ["https://cache.example", "https://user:pw@cache.example"])
def test_401_says_whether_there_were_credentials(base: str) -> None:
    web = Web({"https://cache.example/x": Page(status=401)})
    hint = failure(web.transport(base), "x").hint or ""
    assert ("no credentials for it are configured" in hint) is ("@" not in base)


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("https://cache.example/y", True),
        ("https://cache.example:443/y", True),
        ("https://CACHE.example/y", True),
        ("https://cache.example:8443/y", False),
        ("https://bucket.example/y", False),
        ("https://other:secret@bucket.example/y", False),
    ],
)
def test_credentials_stay_with_their_origin(target: str, *, sent: bool) -> None:
    web = Web({"https://cache.example/x": redirect(target)})
    transport = web.transport("https://user:pw@cache.example")
    for name in ("x", target):
        failure(transport, name)
        last = web.requests[-1]
        assert ("authorization" in last.headers) == sent
        assert not last.url.userinfo


def test_credentials_do_not_follow_to_https_either() -> None:
    web = Web({"http://cache.example/x": redirect("https://cache.example/x")})
    failure(web.transport("http://user:pw@cache.example"), "x")
    assert ["authorization" in request.headers for request in web.requests] == [True, False]


# Ranges


@pytest.mark.parametrize(
    ("wanted", "fields"),
    [
        (Range(start=0), {}),
        (Range(start=5), {"range": "bytes=5-"}),
        (Range(start=0, stop=5), {"range": "bytes=0-4"}),
        (Range(start=5, validator='"a"'), {"range": "bytes=5-", "if-range": '"a"'}),
        (Range(start=5, validator='W/"a"'), {}),
        (Range(start=5, validator="1-2"), {}),
    ],
)
def test_how_a_range_is_asked_for(wanted: Range, fields: dict[str, str]) -> None:
    web = Web({f"{BASE}/x": Page(b"whole")})
    with web.transport().open("x", wanted) as body:
        assert body.start == 0
    sent = web.requests[0].headers
    assert {name: sent[name] for name in ("range", "if-range") if name in sent} == fields


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({"content-range": "bytes 4-9/10"}, Range(start=5)),
        ({"content-range": "bytes 5-9/10"}, None),
        ({"content-range": "bytes 5-9/10"}, Range(start=0)),
        ({"content-type": "multipart/byteranges"}, Range(start=5)),
        ({"content-range": "bytes 5-9/10", "content-length": "4"}, Range(start=5)),
        ({"content-range": "bytes 5-9/10", "etag": '"b"'}, Range(start=5, validator='"a"')),
    ],
)
def test_a_wrong_part_is_retryable(headers: dict[str, str], wanted: Range | None) -> None:
    web = Web({f"{BASE}/x": Page(b"01234", status=206, headers=headers)})
    error = failure(web.transport(), "x", wanted)
    assert error.retryable
    assert error.facts["url"] == f"{BASE}/x"


def test_a_part_without_a_length_must_be_whole_all_the_same() -> None:
    headers = {"content-range": "bytes 5-9/10"}
    web = Web({f"{BASE}/x": Page(b"56", b"78", status=206, headers=headers)})
    error = failure(web.transport(), "x", Range(start=5))
    assert error.retryable
    assert (error.facts["received"], error.facts["expected"]) == (4, 5)


# Bodies and what goes wrong


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
def test_bodies_stay_under_their_encoding(encoding: str) -> None:
    headers = {"content-encoding": encoding, "content-length": "3"}
    web = Web({f"{BASE}/x": Page(b"raw", headers=headers)})
    with web.transport().open("x") as body:
        assert (body.encoding, body.size) == (encoding, 3)
        assert b"".join(body.chunks) == b"raw"


def test_chains_of_encodings_are_refused() -> None:
    headers = {"content-encoding": "gzip, br"}
    web = Web({f"{BASE}/x": Page(b"raw", headers=headers)})
    error = failure(web.transport(), "x")
    assert error.facts == {"url": f"{BASE}/x", "encoding": "gzip, br"}
    assert not error.retryable


def test_large_pieces_are_cut() -> None:
    web = Web({f"{BASE}/x": Page(bytes(600_000))})
    with web.transport().open("x") as body:
        assert body.size is None
        assert [len(chunk) for chunk in body.chunks] == [262144, 262144, 75712]


def test_a_body_that_breaks_off() -> None:
    page = Page(b"12", TransportError("reset", retryable=True), headers={"content-length": "4"})
    web = Web({f"{BASE}/x": page})
    error = failure(web.transport(), "x")
    assert error.retryable
    assert error.facts == {"url": f"{BASE}/x", "received": 2, "expected": 4}


def test_retry_after_reaches_the_caller() -> None:
    headers = {"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}
    web = Web({f"{BASE}/x": Page(status=503, headers=headers)})
    assert failure(web.transport(), "x").retry_after == 60.0
