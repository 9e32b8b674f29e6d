"""From a server's name to a connection: proxies, TLS; all in one deadline.

A proxy is asked for a tunnel (CONNECT) to a server that talks TLS; plain requests are sent to it
as they are. `sockets` finds the address that answers.
"""

from __future__ import annotations

import ssl
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nixfetch.errors import TransportError, facts
from nixfetch.transport import causes
from nixfetch.transport.answers import BrokenAnswerError
from nixfetch.transport.base import AuthenticationError, Pace
from nixfetch.transport.deadline import Deadline
from nixfetch.transport.http1 import sockets
from nixfetch.transport.http1.connection import Connection
from nixfetch.transport.http1.head import MAX_HEAD
from nixfetch.transport.http1.proxies import PROXY_HINT, Proxy

if TYPE_CHECKING:
    import socket

_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})
_PROXY_WANTS_CREDENTIALS = 407
_SUCCESS = range(200, 300)


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


def dial(
    target: Target,
    *,
    pace: Pace,
    tls: ssl.SSLContext,
    lookup: sockets.Lookup = sockets.lookup,
) -> Connection:
    """Connect.

    Args:
        target: where to.
        pace: `connect` is for all of it together.
        tls: whom to believe.
        lookup: gives the addresses of a name.

    Raises:
        AuthenticationError: the proxy wants credentials, or the server another certificate.
        TransportError: nobody answers, or not as asked, or not in time; retryable, but for a
            certificate that is not believed.
    """
    deadline = Deadline(pace.connect)
    with facts(**({"proxy": target.proxy.authority} if target.proxy else {})), ExitStack() as stack:
        near = target.proxy or target
        stream = sockets.connected(near.host, near.port, deadline, lookup=lookup)
        stack.callback(lambda: stream.close())  # noqa: PLW0108 - whichever it is by then
        if target.scheme == "https":
            if target.proxy is not None:
                _tunnel(stream, target, target.proxy, deadline)
            stream = _secured(stream, target.host, deadline, tls)
        connection = Connection(stream)
        stack.pop_all()
        return connection


def _tunnel(stream: socket.socket, target: Target, proxy: Proxy, deadline: Deadline) -> None:
    lines = [f"CONNECT {target.authority} HTTP/1.1", f"Host: {target.authority}"]
    if proxy.authorization is not None:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    request = "".join(f"{line}\r\n" for line in [*lines, ""]).encode("ascii")
    connection = Connection(stream)
    # At that rate no head is fast enough to be given more time than is left.
    head = connection.ask(request, Pace(stall=deadline.left, slowest=MAX_HEAD))
    if head.status == _PROXY_WANTS_CREDENTIALS:
        raise AuthenticationError("proxy wants credentials", status=head.status, hint=PROXY_HINT)
    if head.status not in _SUCCESS:
        raise TransportError(
            "proxy refuses to connect",
            status=head.status,
            retryable=head.status >= 500,  # noqa: PLR2004 - its own trouble
        )
    if connection.buffered:  # in TLS it is the client that begins
        raise BrokenAnswerError("proxy says more than it was asked")


def _secured(
    stream: socket.socket, host: str, deadline: Deadline, tls: ssl.SSLContext
) -> ssl.SSLSocket:
    """`stream` with TLS; it is closed if that fails."""
    try:
        # A body may have no other end than the connection's: one that is cut off must not pass
        # for it. The handshake comes extra, so that it is ours to close.
        secured = tls.wrap_socket(
            stream,
            server_hostname=host.removesuffix("."),
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
        )
    except (OSError, ValueError) as error:
        raise _refused(error) from error
    with ExitStack() as stack:
        stack.callback(secured.close)
        try:
            secured.settimeout(deadline.left)  # for all of the handshake together
            secured.do_handshake()
        except TimeoutError:
            raise deadline.over() from None
        except (OSError, ValueError) as error:
            raise _refused(error) from error
        stack.pop_all()
    return secured


def _refused(error: OSError | ValueError) -> TransportError:
    reason = causes.reason(error)
    if causes.is_certificate(error):
        return TransportError("cannot connect", reason=reason, hint=causes.CERTIFICATE_HINT)
    if causes.is_our_certificate(error):
        hint = causes.OUR_CERTIFICATE_HINT
        return AuthenticationError("remote wants another certificate", reason=reason, hint=hint)
    if isinstance(error, ssl.SSLError) and error.reason in _NO_TLS:
        return TransportError(
            "cannot connect",
            reason="remote does not talk TLS on this port",
            hint="if it is to talk plain HTTP, write http:// in the cache's URL",
        )
    return TransportError("cannot connect", retryable=True, reason=reason)
