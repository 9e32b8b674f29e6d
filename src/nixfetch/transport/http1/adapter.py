"""What `http` sends its requests with: `Engine`, an `httpx.BaseTransport`.

httpx's URLs, requests and responses are kept; its client is not used. That would look for
cookies, credentials and redirects, which are ours to judge, at a third of a request's price.
"""

from __future__ import annotations

import re
from contextlib import closing, suppress
from time import monotonic
from typing import TYPE_CHECKING

import httpx

from nixfetch.errors import TransportError
from nixfetch.transport.http1.connection import StaleConnectionError
from nixfetch.transport.http1.dial import Target, dial
from nixfetch.transport.http1.pool import Pool
from nixfetch.transport.urls import UrlError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from nixfetch.transport.base import Pace
    from nixfetch.transport.http1.connection import Connection
    from nixfetch.transport.http1.proxies import Proxies

PACE = "nixfetch.pace"
"""The extension of a request that has its `Pace`."""
MAX_DISCARD = 16 * 1024  # bytes of an unwanted body worth reading to keep its connection
DISCARDING = 1.0  # seconds worth waiting for them; a new connection takes about as long
_PORTS = {"http": 80, "https": 443}
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Engine(httpx.BaseTransport):
    """GET requests over HTTP/1.1."""

    def __init__(
        self,
        *,
        tls: ssl.SSLContext,
        pace: Pace,
        connections: int,
        proxies: Proxies | None = None,
    ) -> None:
        """Connect to nobody yet.

        Args:
            tls: whom to believe.
            pace: for requests without one of their own.
            connections: at a time.
            proxies: which to use, if any.
        """
        self._pace = pace
        self._proxies = proxies
        self._pool = Pool(
            most=connections, dial=lambda target, pace: dial(target, pace=pace, tls=tls)
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`, which has no body, and take the head of its answer.

        Raises:
            TransportError: no answer, or none that is one.
        """
        pace = request.extensions.get(PACE) or self._pace
        target = self._target(request.url)
        text = _rendered(request, target)
        try:
            return self._try(target, text, pace, fresh=False)
        except StaleConnectionError:
            # Closed while it was idle: that says nothing about the remote. Once, and anew.
            return self._try(target, text, pace, fresh=True)

    def close(self) -> None:
        """Close all connections; whoever uses one or waits for one gets an error at once."""
        self._pool.close()

    def _try(self, target: Target, text: bytes, pace: Pace, *, fresh: bool) -> httpx.Response:
        connection = self._pool.take(target, pace, fresh=fresh)
        try:
            began = monotonic()
            head = connection.ask(text, pace)
            pace.answered(monotonic() - began)
            body, reusable = connection.body(head)
        except BaseException:
            self._pool.drop(connection)
            raise
        stream = _Stream(self._pool, target, connection, body, reusable=reusable)
        return httpx.Response(head.status, headers=head.fields, stream=stream)

    def _target(self, url: httpx.URL) -> Target:
        host = url.raw_host.decode("ascii")
        port = url.port or _PORTS[url.scheme]
        proxy = self._proxies.towards(url.scheme, host, port) if self._proxies else None
        return Target(url.scheme, host, port, proxy)


def discard(response: httpx.Response) -> None:
    """Close `response`, whose body nobody wants; read that first where it is cheap.

    The connection of a body that was read to its end can be used again.
    """
    with closing(response):
        length = response.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_DISCARD:
            return
        if isinstance(response.stream, _Stream) and not response.stream.hurry(DISCARDING):
            return
        read = 0
        with suppress(TransportError):  # what was wanted of the answer is known
            for data in response.iter_raw():
                read += len(data)
                if read > MAX_DISCARD:
                    return


class _Stream(httpx.SyncByteStream):
    """A body; its connection goes back to the pool when it was read to its end."""

    def __init__(
        self,
        pool: Pool,
        target: Target,
        connection: Connection,
        body: Iterator[bytes],
        *,
        reusable: bool,
    ) -> None:
        self._pool = pool
        self._target = target
        self._connection = connection
        self._body = body
        self._reusable = reusable
        self._read = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self._body
        self._read = True

    def hurry(self, seconds: float) -> bool:
        """Wait no longer than that for the rest; False where reading it is good for nothing."""
        self._connection.hurry(seconds)
        return self._reusable

    def close(self) -> None:
        if self._read and self._reusable:
            self._pool.keep(self._target, self._connection)
        else:
            self._pool.drop(self._connection)


def _rendered(request: httpx.Request, target: Target) -> bytes:
    """The head of a request as it travels.

    Raises:
        UrlError: something in it would end a line of it.
    """
    path = request.url.raw_path
    fields = list(request.headers.raw)
    if target.proxy is not None and target.scheme == "http":
        path = b"http://" + request.url.netloc + path
        if target.proxy.authorization is not None:
            fields.append((b"Proxy-Authorization", target.proxy.authorization.encode("ascii")))
    lines = [b"%s %s HTTP/1.1" % (request.method.encode("ascii"), path)]
    lines += [b"%s: %s" % field for field in fields]
    if any(map(_CONTROL.search, lines)):
        raise UrlError("control character in a request")
    return b"\r\n".join([*lines, b"", b""])
