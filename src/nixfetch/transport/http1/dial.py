"""From a name to a socket that a server listens at: addresses, proxies, TLS; in one deadline.

A proxy is asked for a tunnel (CONNECT) to a server that talks TLS; plain requests are sent to it
as they are. Looking a name up is the system's, and as long as the system takes.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import (  # type: ignore[attr-defined] # typeshed lacks the second
    getproxies_environment,
    proxy_bypass_environment,
)

from nixfetch.errors import TransportError
from nixfetch.transport import causes
from nixfetch.transport.base import AuthenticationError, Pace
from nixfetch.transport.http1.connection import Connection
from nixfetch.transport.urls import UrlError

if TYPE_CHECKING:
    from collections.abc import Mapping

_PROXY_HINT = "look at HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY in the environment"
_PORTS = {"http": 80, "https": 443}
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})
_PROXY_WANTS_CREDENTIALS = 407
_SUCCESS = range(200, 300)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that talks plain HTTP to us."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)
    """The value of Proxy-Authorization."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server, and the proxy on the way there."""

    scheme: str
    host: str
    """ASCII; IPv6 addresses without brackets."""
    port: int
    proxy: Proxy | None = None

    @property
    def authority(self) -> str:
        """``host:port``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Proxies:
    """The proxies that the environment names, as curl and Python read it."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        """Take them from `environ`, as `getproxies_environment` gives it; from ours by default.

        Raises:
            UrlError: one is malformed, or of a kind that we cannot use.
        """
        found = getproxies_environment() if environ is None else dict(environ)
        self._no = {"no": found.get("no", "")}
        shared = found.get("all")
        self._proxies = {
            scheme: _proxy(url)
            for scheme in ("http", "https")
            if (url := found.get(scheme) or shared)
        }

    def towards(self, scheme: str, host: str, port: int) -> Proxy | None:
        """The proxy for a server, if there is one."""
        proxy = self._proxies.get(scheme)
        if proxy is None or proxy_bypass_environment(f"{host}:{port}", self._no):
            return None
        return proxy


def _proxy(url: str) -> Proxy:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        host = port = None
    if parts.scheme in {"socks", "socks4", "socks5", "socks5h", "https"}:
        raise UrlError("cannot use a proxy of this kind", kind=parts.scheme, hint=_PROXY_HINT)
    if parts.scheme != "http" or not host or not port:
        raise UrlError("malformed proxy URL", hint=_PROXY_HINT)  # it may hold a password: unsaid
    authorization = None
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        authorization = "Basic " + base64.b64encode(login).decode("ascii")
    return Proxy(host, port, authorization)


class _Deadline:
    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self, *, parts: int = 1) -> float | None:
        """Seconds left for one of so many tries.

        Raises:
            TransportError: none.
        """
        if self._end is None:
            return None
        left = self._end - time.monotonic()
        if left <= 0:
            raise self.over()
        return left / parts

    def over(self) -> TransportError:
        return TransportError(
            "cannot connect", retryable=True, reason="timed out", seconds=self._seconds
        )


def dial(target: Target, *, pace: Pace, tls: ssl.SSLContext) -> Connection:
    """Connect.

    Args:
        target: where to.
        pace: `connect` is for all of it together.
        tls: whom to believe.

    Raises:
        AuthenticationError: the proxy wants credentials.
        TransportError: nobody answers, or not as asked, or not in time; retryable, but for a
            certificate that is not believed.
    """
    deadline = _Deadline(pace.connect)
    near = target.proxy or target
    stream = _connected(near.host, near.port, deadline)
    try:
        if target.scheme == "https":
            if target.proxy is not None:
                _tunnel(stream, target, target.proxy, deadline)
            stream.settimeout(deadline.left())
            stream = tls.wrap_socket(stream, server_hostname=target.host)
        return Connection(stream)
    except TimeoutError:
        stream.close()
        raise deadline.over() from None
    except (OSError, ValueError) as error:
        stream.close()
        raise _refused(error) from error
    except BaseException:
        stream.close()
        raise


def _connected(host: str, port: int, deadline: _Deadline) -> socket.socket:
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _refused(error) from error
    failure: TransportError | None = None
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        timeout = deadline.left(parts=len(addresses) - number)
        with contextlib.ExitStack() as stack:
            try:
                stream = stack.enter_context(socket.socket(family, kind, protocol))
                stream.settimeout(timeout)
                stream.connect(address)
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except TimeoutError:
                failure = deadline.over()
            except OSError as error:
                failure = _refused(error)
            else:
                stack.pop_all()
                return stream
    raise failure or TransportError("cannot connect", reason="the name has no address")


def _tunnel(stream: socket.socket, target: Target, proxy: Proxy, deadline: _Deadline) -> None:
    lines = [f"CONNECT {target.authority} HTTP/1.1", f"Host: {target.authority}"]
    if proxy.authorization is not None:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    request = "".join(f"{line}\r\n" for line in [*lines, ""]).encode("ascii")
    head = Connection(stream).ask(request, Pace(stall=deadline.left(), slowest=1))
    if head.status == _PROXY_WANTS_CREDENTIALS:
        raise AuthenticationError("proxy wants credentials", status=head.status, hint=_PROXY_HINT)
    if head.status not in _SUCCESS:
        raise TransportError(
            "proxy refuses to connect",
            status=head.status,
            retryable=head.status >= 500,  # noqa: PLR2004 - its own trouble
        )


def _refused(error: OSError | ValueError) -> TransportError:
    reason = causes.reason(error)
    if causes.is_certificate(error):
        return TransportError("cannot connect", reason=reason, hint=causes.CERTIFICATE_HINT)
    if isinstance(error, ssl.SSLError) and error.reason in _NO_TLS:
        return TransportError(
            "cannot connect",
            reason="remote does not talk TLS on this port",
            hint="if it is to talk plain HTTP, write http:// in the cache's URL",
        )
    return TransportError("cannot connect", retryable=True, reason=reason)
