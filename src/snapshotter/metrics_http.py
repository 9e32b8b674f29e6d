"""Where Prometheus asks: /metrics and /healthz over HTTP, on loopback or a unix socket only.

Metrics are no secret of ours, but names of paths may be somebody's: nobody outside the machine
is answered, and nothing is read but the request line and its headers.
"""

from __future__ import annotations

import ipaddress
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Self

from snapshotter.config import SettingsError
from snapshotter.metrics import CONTENT_TYPE
from snapshotter.sockets import SocketError, claim, private

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

PATIENCE = 5.0  # seconds for one request
LOOK = 0.1  # seconds between looks whether it is closed


class _Handler(BaseHTTPRequestHandler):
    timeout = PATIENCE
    server: _Server

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/metrics":
                self._answer(200, self.server.render(), CONTENT_TYPE)
            case "/healthz":
                healthy = self.server.healthy()
                self._answer(200 if healthy else 503, "ok\n" if healthy else "stopping\n")
            case _:
                self._answer(404, "there are /metrics and /healthz\n")

    def _answer(self, status: int, text: str, kind: str = "text/plain") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "local"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing: Prometheus asks all the time."""


class _Server(socketserver.ThreadingMixIn, socketserver.BaseServer):
    daemon_threads = True
    render: Callable[[], str]
    healthy: Callable[[], bool]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: whoever asked has hung up."""


class _Tcp(_Server, socketserver.TCPServer):
    allow_reuse_address = True


class _Tcp6(_Tcp):
    address_family = socket.AF_INET6


class _Unix(_Server, socketserver.UnixStreamServer):
    pass


class MetricsServer:
    """Answers until it is closed."""

    def __init__(
        self, address: str, *, render: Callable[[], str], healthy: Callable[[], bool]
    ) -> None:
        """Begin to answer.

        Args:
            address: ``127.0.0.1:PORT``, ``[::1]:PORT`` or ``unix:/PATH``; port 0 is a free one.
            render: gives the metrics.
            healthy: whether calls are answered.

        Raises:
            SettingsError: the address is not one of these.
            SocketError: it cannot be had.
        """
        self._file: Path | None = None
        try:
            self._server = self._open(address)
        except OSError as error:
            raise SocketError(
                "address of metrics cannot be had", address=address, reason=error.strerror
            ) from error
        self._server.render, self._server.healthy = render, healthy
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=[LOOK], name="metrics", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The one it listens at; 0 on a unix socket."""
        address = self._server.server_address
        return int(address[1]) if isinstance(address, tuple) else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def _open(self, address: str) -> _Server:
        if address.startswith("unix:"):
            self._file = Path(address.removeprefix("unix:"))
            claim(self._file)
            with private():
                return _Unix(str(self._file), _Handler)
        host, colon, port = address.rpartition(":")
        try:
            loopback = ipaddress.ip_address(host.strip("[]"))
            number = int(port)
        except ValueError:
            loopback, number = None, -1
        if loopback is None or not loopback.is_loopback or not colon or not 0 <= number < 2**16:
            raise SettingsError(
                "metrics can be had on this machine only",
                setting="metrics-address",
                value=address[:100],
                hint="127.0.0.1:PORT, [::1]:PORT or unix:/PATH",
            )
        kind = _Tcp if loopback.version == 4 else _Tcp6  # noqa: PLR2004 - of the protocol
        return kind((str(loopback), number), _Handler)
