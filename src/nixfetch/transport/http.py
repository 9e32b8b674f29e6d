"""Caches over HTTP and HTTPS. Knows URLs, status codes and redirects; knows nothing of Nix.

What a cache may make us do, in one place (FORMATS and threats: docs/architecture.md):

    relative name   below the base URL, whatever its encoding says
    absolute URL    treated as a redirect from the base URL
    redirect        at most MAX_REDIRECTS; http and https only; never from https to http; never to
                    an address nearer to us than the cache itself (`addresses`)
    credentials     sent to the base URL's own origin (scheme, host, port) and nowhere else
    cookies         neither kept nor sent: there is no client that would
    body            handed on as it travels; we ask for no encoding, and say which one we got

How long a remote may let us wait is measured in `http1`, which sends the requests.
"""

from __future__ import annotations

import re
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote

import httpx

from nixfetch.errors import TransportError, facts
from nixfetch.transport import answers, causes
from nixfetch.transport.addresses import Boundary, resolve
from nixfetch.transport.base import Body, Pace
from nixfetch.transport.credentials import Basic
from nixfetch.transport.http1.adapter import PACE, Engine, discard
from nixfetch.transport.http1.proxies import Proxies
from nixfetch.transport.options import user_agent
from nixfetch.transport.tls import LazyTrust
from nixfetch.transport.urls import UrlError, checked_text, redacted, scheme, segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nixfetch.transport.addresses import Resolver
    from nixfetch.transport.base import Range
    from nixfetch.transport.credentials import Credentials
    from nixfetch.transport.options import TransportOptions

CHUNK_SIZE = 256 * 1024  # bytes; what `Body.chunks` allows
MAX_REDIRECTS = 5  # hops; real caches need one, to their object store

# A name, its labels as RFC 1035 limits them, or an address; httpx has encoded all else.
_HOST = re.compile(rb"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?|(?=.*:)[0-9a-f:.]+")
_PLAIN = re.compile(r"[A-Za-z0-9._/+-]+")
MAX_PORT = 65535
_PORTS = {"http": 80, "https": 443}
_BAD_REQUEST = 400
_UNAUTHORIZED = 401
_NO_CREDENTIALS = (
    "no credentials for it are configured: a line of netrc, or ?token-file= or ?password-file= in"
    " its URL (docs/guides/private-caches.md)"
)
_PERHAPS_TLS = "if that is a port for TLS, write https:// in the cache's URL"


def engine(options: TransportOptions) -> Engine:
    """What an `HttpTransport` sends its requests with: our own HTTP/1.1."""
    return Engine(
        tls=LazyTrust(
            options.ca_file, certificate=options.client_certificate, key=options.client_key
        ),
        pace=options.pace,
        connections=options.connections,
        proxies=Proxies() if options.trust_env else None,
    )


def connect(
    url: str, *, options: TransportOptions, credentials: Credentials | None = None
) -> HttpTransport:
    """The transport of an http or https URL; see `HttpTransport` for `credentials`."""
    return HttpTransport(
        url,
        engine(options),
        credentials=credentials,
        user_agent=user_agent(options),
        accept=options.accept,
        pace=options.pace,
    )


class HttpTransport:
    """Reads from one base URL.

    Args:
        base_url: where the cache is; a user and password in it become basic authentication.
        sender: sends requests one by one, as `engine` does; it becomes the transport's to close.
        credentials: for the base URL's origin, for a URL that has none of its own.
        accept: what kind of answer is wanted, as the field says it.
        user_agent: how we introduce ourselves.
        pace: for looking up names, where a request has none of its own.
        resolver: gives the addresses of a host name, to judge redirects by.
        now: seconds since 1970, to judge a Retry-After date by.

    Raises:
        UrlError: `base_url` is no http or https URL with a host, or has a query.
    """

    def __init__(
        self,
        base_url: str,
        sender: httpx.BaseTransport,
        *,
        credentials: Credentials | None = None,
        user_agent: str = "nixfetch",
        accept: str = "*/*",
        pace: Pace | None = None,
        resolver: Resolver = resolve,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._sender = sender
        self._pace = pace or Pace()
        self._now = now
        with facts(url=redacted(base_url).partition("?")[0]):
            url = _parsed(base_url)
            if url.query or url.fragment:
                raise UrlError("unknown parameter in the URL")
        if url.userinfo:
            credentials = Basic(unquote(url.username), unquote(url.password))
        self._authorization = credentials.authorization() if credentials else None
        self._base = url.copy_with(userinfo=b"", path=url.path.rstrip("/") + "/")
        self._prefix = str(self._base)
        self._url = redacted(self._prefix).rstrip("/")
        self._origin = _origin(self._base)
        self._fields = {
            b"user-agent": user_agent.encode(),  # httpx would stumble over letters beyond ASCII
            b"accept": accept.encode("ascii"),
            b"accept-encoding": b"identity",
        }
        self._boundary = Boundary(_host(url), resolver)

    @property
    def url(self) -> str:
        return self._url

    def close(self) -> None:
        self._sender.close()

    @contextmanager
    def open(
        self, name: str, wanted: Range | None = None, *, pace: Pace | None = None
    ) -> Iterator[Body]:
        shown = self._shown(name)
        with facts(url=shown):
            response = self._answer(self._target(name, pace), wanted, pace)
        with closing(response):
            with facts(url=shown):
                body = _body(response, wanted, shown)
            yield body

    def _shown(self, name: str) -> str:
        if _PLAIN.fullmatch(name):  # which spares most names a parser
            return f"{self._url}/{name}"
        return redacted(name) if scheme(name) else f"{self._url}/{redacted(name)}"

    def _target(self, name: str, pace: Pace | None = None) -> httpx.URL:
        if scheme(name) is not None:
            return self._allowed(_parsed(name), before=self._base, pace=pace)
        segments(name)
        return _parsed(f"{self._prefix}{name.partition('#')[0]}")

    def _allowed(self, url: httpx.URL, *, before: httpx.URL, pace: Pace | None) -> httpx.URL:
        """`url`, if the answer of `before` may send us there."""
        if before.scheme == "https" and url.scheme != "https":
            raise UrlError("redirect from https to http")
        self._boundary.check(_host(url), seconds=(pace or self._pace).connect)
        return url.copy_with(userinfo=b"", fragment=None)

    def _answer(self, url: httpx.URL, wanted: Range | None, pace: Pace | None) -> httpx.Response:
        """Ask, follow redirects, and return the first answer that has the object."""
        first = url
        for _ in range(MAX_REDIRECTS + 1):
            with facts(**({} if url is first else {"redirected_to": redacted(str(url))})):
                response = self._send(url, wanted, pace)
                if response.status_code in {answers.OK, answers.PARTIAL}:
                    return response
                discard(response)
                url = self._next(url, response, pace)
        raise UrlError("too many redirects", limit=MAX_REDIRECTS)

    def _next(self, url: httpx.URL, response: httpx.Response, pace: Pace | None) -> httpx.URL:
        """Where an answer that is not the object sends us; raises when nowhere."""
        location = response.headers.get("location")
        if response.status_code not in answers.REDIRECTS or not location:
            refusal = answers.refusal(response.status_code, response.headers, now=self._now)
            if response.status_code == _BAD_REQUEST:  # what nginx says of both
                plain = url.scheme == "http"
                refusal.hint = _PERHAPS_TLS if plain else causes.OUR_CERTIFICATE_HINT
            if response.status_code == _UNAUTHORIZED and self._authorization is None:
                refusal.hint = _NO_CREDENTIALS
            raise refusal
        with facts(target=redacted(location)):
            # A scheme without a host is not what RFC 3986 calls relative, though join() says so.
            target = location if scheme(location) else _joined(url, location)
            return self._allowed(_parsed(target), before=url, pace=pace)

    def _send(self, url: httpx.URL, wanted: Range | None, pace: Pace | None) -> httpx.Response:
        headers = self._fields | _range_headers(wanted)
        if self._authorization is not None and _origin(url) == self._origin:
            headers[b"authorization"] = self._authorization.encode("ascii")
        request = httpx.Request("GET", url, headers=headers, extensions={PACE: pace})
        return self._sender.handle_request(request)


def _range_headers(wanted: Range | None) -> dict[bytes, bytes]:
    """Fields that ask for `wanted`; none where its validator cannot be checked by the server."""
    if wanted is None or wanted.whole:
        return {}
    field = {b"range": answers.range_field(wanted).encode("ascii")}
    if wanted.validator is None:
        return field
    if answers.strong(wanted.validator) is None:
        return {}
    return field | {b"if-range": wanted.validator.encode("ascii")}


def _body(response: httpx.Response, wanted: Range | None, shown: str) -> Body:
    headers = response.headers
    validator = answers.strong(headers.get("etag"))
    start, size = 0, _length(headers)
    if response.status_code == answers.PARTIAL:
        start, size = _part(response, wanted)
    return Body(
        chunks=_chunks(response, size, shown),
        size=size,
        encoding=answers.encoding(headers.get("content-encoding")),
        start=start,
        validator=validator,
    )


def _length(headers: httpx.Headers) -> int | None:
    text = headers.get("content-length", "")
    chunked = "transfer-encoding" in headers  # which then counts, RFC 9112 section 6.3
    return int(text) if text.isascii() and text.isdecimal() and not chunked else None


def _part(response: httpx.Response, wanted: Range | None) -> tuple[int, int]:
    """Offset and size of a 206 answer's body."""
    if wanted is None or not _range_headers(wanted):
        raise answers.BrokenAnswerError("partial answer that was not asked for", retryable=True)
    size = answers.content_range(response.headers.get("content-range"), wanted)
    etag = response.headers.get("etag")
    if wanted.validator is not None and etag is not None and etag != wanted.validator:
        raise answers.BrokenAnswerError("partial answer of another version", retryable=True)
    if _length(response.headers) not in {None, size}:
        raise answers.BrokenAnswerError("Content-Range and Content-Length differ", retryable=True)
    return wanted.start, size


def _chunks(response: httpx.Response, size: int | None, shown: str) -> Iterator[bytes]:
    received = 0
    raw = response.iter_raw()
    while True:
        with facts(url=shown, received=received, expected=size):
            data = next(raw, None)
        if data is None:
            break
        received += len(data)
        for start in range(0, len(data), CHUNK_SIZE):
            yield data[start : start + CHUNK_SIZE]
    if size is not None and received != size:
        raise TransportError(
            "body ended early", retryable=True, url=shown, received=received, expected=size
        )


def _parsed(text: str) -> httpx.URL:
    """An http or https URL with a host that can be looked up."""
    found = scheme(checked_text(text))
    if found not in _PORTS:
        raise UrlError("scheme not allowed", scheme=found)
    try:
        url = httpx.URL(text)
        _ = url.host  # raises for a false A-label, which httpx would do in mid-request
    except (httpx.InvalidURL, ValueError):
        # Neither chained nor quoted: the parser's message may hold a password.
        raise UrlError("malformed URL") from None
    if not _HOST.fullmatch(url.raw_host):
        raise UrlError("URL without a usable host")
    if url.port is not None and not 0 < url.port <= MAX_PORT:
        raise UrlError("URL without a usable port")
    return url


def _joined(url: httpx.URL, location: str) -> str:
    try:
        return str(url.join(checked_text(location)))
    except (httpx.InvalidURL, ValueError):
        raise UrlError("malformed redirect") from None  # see `_parsed`


def _host(url: httpx.URL) -> str:
    return url.raw_host.decode("ascii").lower()


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, _host(url), url.port or _PORTS.get(url.scheme)
