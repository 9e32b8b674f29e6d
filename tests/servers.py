"""A small HTTP server on loopback for tests, with faults on demand.

    with LoopbackServer({"nar/x.nar": b"data"}) as server:
        server.url                                      # "http://127.0.0.1:40000"
        server.objects["new"] = b"put while it runs"
        server.objects["packed"] = Answer(b"…", headers={"Content-Encoding": "gzip"})
        server.faults["nar/x.nar"] = Answer(status=503, headers={"Retry-After": "1"})
        server.faults["nar/y.nar"] = once(Answer(b"data", cut=2))
        server.requests                                 # what was asked, in order
        server.asked("nar/x.nar")                       # how often

Objects come from a mapping (names without the leading slash) or from a directory. It does GET and
HEAD, keep-alive, strong ETags, Range, If-Range and If-Match; to other methods it says 501. A fault
is an `Answer`, or a function from a `Request` to an `Answer` (None: answer as usual); it is sent as
it stands. The fault at ``"*"`` is asked for names that have none of their own.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from socketserver import TCPServer
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

PIECE = 64 * 1024  # bytes sent at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asked."""

    method: str
    name: str
    """The path, percent-decoded, without its leading slash and its query."""
    target: str
    """The path as it was sent, with its query."""
    headers: Mapping[str, str]
    """Names in lower case."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server says, truthful or not."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    """Added to the ordinary ones; a Content-Length here replaces the true one."""
    cut: int | None = None
    """Close the connection after so many bytes of the body."""
    reset: bool = False
    """Close by TCP reset, after `cut` bytes; with ``cut=None`` instead of any answer."""
    delay: float = 0.0
    """Seconds before the status line; cut short when the server stops."""
    pause: float = 0.0
    """Seconds between two pieces of the body."""
    piece: int = PIECE
    """Bytes sent at a time."""
    chunked: bool = False
    """Send with Transfer-Encoding: chunked, and no Content-Length."""


Fault = Answer | Callable[[Request], Answer | None]


def once(answer: Answer) -> Fault:
    """`answer` for the first request, then as usual."""
    return times(1, answer)


def times(count: int, answer: Answer) -> Fault:
    """`answer` for the first `count` requests, then as usual."""
    return sequence(*[answer] * count)


def sequence(*answers: Answer | None) -> Fault:
    """One answer after the other (None: as usual), then as usual."""
    left = list(answers)
    lock = threading.Lock()

    def fault(_request: Request) -> Answer | None:
        with lock:
            return left.pop(0) if left else None

    return fault


class LoopbackServer:
    """Serves until its block is left; see the module's docstring.

    Args:
        objects: a mapping of names to bytes or answers (kept, so it may be changed while serving),
            or a directory.
        tls: a server's context, for https.
    """

    def __init__(
        self,
        objects: Mapping[str, bytes | Answer] | Path | None = None,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.directory = objects if isinstance(objects, Path) else None
        self.objects: dict[str, bytes | Answer] = {}
        if isinstance(objects, dict):
            self.objects = objects
        elif isinstance(objects, Mapping):
            self.objects = dict(objects)
        self.faults: dict[str, Fault] = {}
        self.requests: list[Request] = []
        self.connections = 0
        """TCP connections accepted so far."""
        self.stopping = threading.Event()
        self._server = _Server(self, tls)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._scheme = "https" if tls else "http"

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop listening and drop all connections; may be called again."""
        if self.stopping.is_set():
            return
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.drop_connections()
        self._server.server_close()  # waits for the handlers

    def asked(self, name: str, *, method: str = "GET") -> int:
        """How many requests there were for one name."""
        return sum(request.name == name and request.method == method for request in self.requests)

    def names(self) -> list[str]:
        """The names asked for, in order."""
        return [request.name for request in self.requests]

    def answer(self, request: Request) -> Answer:
        """What `request` gets."""
        self.requests.append(request)
        fault = self.faults.get(request.name) or self.faults.get("*")
        if isinstance(fault, Answer):
            return fault
        if fault is not None and (answer := fault(request)) is not None:
            return answer
        found = self._find(request.name)
        return Answer(b"no such object\n", 404) if found is None else _truthful(found, request)

    def _find(self, name: str) -> Answer | None:
        found = self.objects.get(name)
        if found is None and self.directory is not None and ".." not in name.split("/"):
            with contextlib.suppress(OSError):
                found = (self.directory / name).read_bytes()
        return Answer(found) if isinstance(found, bytes) else found


def etag(body: bytes) -> str:
    """The strong ETag under which the server gives `body`."""
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def _truthful(answer: Answer, request: Request) -> Answer:
    """`answer` with its ETag; a part of it where a part is asked for."""
    body = answer.body
    tag = answer.headers.get("ETag", etag(body))
    headers = {"ETag": tag, "Accept-Ranges": "bytes", **answer.headers}
    if request.headers.get("if-match", tag) != tag:
        return Answer(b"changed\n", 412)
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if answer.status != HTTPStatus.OK or not match or request.headers.get("if-range", tag) != tag:
        return replace(answer, headers=headers)
    start, stop = int(match[1]), min(int(match[2] or len(body) - 1) + 1, len(body))
    if start >= len(body):
        return Answer(b"", 416, {"Content-Range": f"bytes */{len(body)}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
    return replace(answer, body=body[start:stop], status=206, headers=headers)


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close waits for them
    request_queue_size = 128

    def __init__(self, owner: LoopbackServer, tls: ssl.SSLContext | None) -> None:
        self.owner = owner
        self._tls = tls
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's looks up the host's name, which may take long
        self.server_name, self.server_port = "127.0.0.1", int(self.server_address[1])

    def finish_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        # Nagle and delayed acknowledgements would add 40 ms to each small answer.
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        try:
            wrapped = self._tls.wrap_socket(request, server_side=True)
        except OSError:
            return  # the client did not believe us
        with self._lock:
            self._open.add(wrapped)
        try:
            super().finish_request(wrapped, client_address)
        finally:
            self.shutdown_request(wrapped)

    def process_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        with self._lock:
            self._open.add(request)
            self.owner.connections += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request: object) -> None:
        assert isinstance(request, socket.socket)
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def drop_connections(self) -> None:
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are what tests do; nothing is printed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet for an answer's head and a small body
    server: _Server

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep quiet: `LoopbackServer.requests` is the log."""

    def _serve(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(
            method=self.command,
            name=unquote(urlsplit("//host" + self.path).path.removeprefix("/")),
            target=self.path,
            headers=headers,
        )
        answer = self.server.owner.answer(request)
        self._wait(answer.delay)
        if answer.reset and answer.cut is None:
            self._reset()
            return
        self._send_head(answer)
        if request.method != "HEAD":
            self._send_body(answer)
        if answer.reset:
            self.wfile.flush()
            self._reset()

    def _send_head(self, answer: Answer) -> None:
        self.send_response(answer.status)
        headers = {"Content-Length": str(len(answer.body)), **answer.headers}
        if answer.chunked:
            headers["Transfer-Encoding"] = "chunked"
            del headers["Content-Length"]
        if answer.cut is not None:
            self.close_connection = True
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_body(self, answer: Answer) -> None:
        body = answer.body[: answer.cut]
        for start in range(0, len(body), answer.piece):
            piece = body[start : start + answer.piece]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if answer.chunked else piece)
            if answer.pause:
                self.wfile.flush()
                self._wait(answer.pause)
        if answer.chunked and answer.cut is None:
            self.wfile.write(b"0\r\n\r\n")

    def _wait(self, seconds: float) -> None:
        if seconds:
            self.server.owner.stopping.wait(seconds)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def certified(directory: Path, *, host: str = "127.0.0.1") -> tuple[ssl.SSLContext, Path]:
    """A TLS context for `LoopbackServer`, and the file of the authority to believe it by."""
    import ssl

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    try:
        subject: x509.GeneralName = x509.IPAddress(ip_address(host))
    except ValueError:
        subject = x509.DNSName(host)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([subject]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    ca_file, key_file = directory / "ca.pem", directory / "key.pem"
    ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca_file, key_file)
    return context, ca_file


def wait_until(condition: Callable[[], bool], *, seconds: float = 5.0) -> None:
    """Wait for something that another thread brings about; fails when it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)
