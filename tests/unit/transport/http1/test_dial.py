"""Proxies and TLS over loopback, and remotes that keep us waiting before the first request."""

from __future__ import annotations

import base64
import ssl
from typing import TYPE_CHECKING

import pytest

from nixfetch.errors import TransportError
from nixfetch.transport import AuthenticationError, Pace
from nixfetch.transport.answers import BrokenAnswerError
from nixfetch.transport.http1.dial import Target, dial
from nixfetch.transport.http1.proxies import Proxy
from nixfetch.transport.tls import LazyTrust
from nixfetch.transport.waiting import SlowRemoteError
from servers import LoopbackServer, certified

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nixfetch.transport.http1.connection import Connection

    Handler = Callable[[socket.socket], None]
    Listen = Callable[[Handler], int]

PACE = Pace(connect=10, stall=10)
HASTE = Pace(connect=0.3, stall=10)
REQUEST = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def authority(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    return certified(tmp_path)


@pytest.fixture
def secure(authority: tuple[ssl.SSLContext, Path]) -> Iterator[LoopbackServer]:
    with LoopbackServer({"x": b"data"}, tls=authority[0]) as server:
        yield server


@pytest.fixture
def tls(authority: tuple[ssl.SSLContext, Path]) -> LazyTrust:
    return LazyTrust(str(authority[1]))


def fetched(connection: Connection) -> bytes:
    try:
        body, _ = connection.body(connection.ask(REQUEST, PACE))
        return b"".join(body)
    finally:
        connection.close()


def failure(target: Target, tls: ssl.SSLContext, pace: Pace = PACE) -> TransportError:
    with pytest.raises(TransportError) as caught:
        dial(target, pace=pace, tls=tls)
    return caught.value


# TLS


def test_tls(secure: LoopbackServer, tls: LazyTrust) -> None:
    target = Target("https", "127.0.0.1", secure.port)
    assert fetched(dial(target, pace=PACE, tls=tls)) == b"data"
    assert fetched(dial(target, pace=Pace(connect=None), tls=tls)) == b"data"


def test_what_we_say_before_the_first_request(tmp_path: Path, listen: Listen) -> None:
    server, ca_file = certified(tmp_path, host="cache.example")
    server.set_alpn_protocols(["h2", "http/1.1"])
    seen: list[tuple[str | None, str | None, str | None]] = []
    names: list[str | None] = []
    server.sni_callback = lambda _stream, name, _context: names.append(name)

    def handler(connection: socket.socket) -> None:
        with server.wrap_socket(connection, server_side=True) as stream:
            seen.append((stream.version(), stream.selected_alpn_protocol(), names[-1]))

    port = listen(handler)
    for host in ("cache.example", "cache.example."):
        connection = dial(
            Target("https", host, port),
            pace=PACE,
            tls=LazyTrust(str(ca_file)),
            lookup=lambda _host, port: [(2, 1, 6, "", ("127.0.0.1", port))],
        )
        with pytest.raises(TransportError):
            connection.ask(REQUEST, PACE)
        connection.close()
    assert seen == [("TLSv1.3", "http/1.1", "cache.example")] * 2


def silent(connection: socket.socket) -> None:
    while connection.recv(1000):
        pass


def dripping(connection: socket.socket) -> None:
    record = b"\x16\x03\x03\x40\x00"  # a handshake of 16 KiB, as far as it gets
    connection.recv(1000)
    connection.settimeout(0.01)
    for byte in record + bytes(16_000):
        connection.sendall(bytes([byte]))
        try:
            if not connection.recv(1000):
                return
        except TimeoutError:
            pass


@pytest.mark.parametrize("handler", [silent, dripping])
def test_a_handshake_that_does_not_end(listen: Listen, tls: LazyTrust, handler: Handler) -> None:
    error = failure(Target("https", "127.0.0.1", listen(handler)), tls, HASTE)
    assert (error.problem, error.retryable) == ("cannot connect", True)
    assert error.facts == {"reason": "timed out", "seconds": 0.3}


def test_hanging_up_in_the_handshake(listen: Listen, tls: LazyTrust) -> None:
    error = failure(Target("https", "127.0.0.1", listen(lambda _: None)), tls)
    assert (error.problem, error.retryable) == ("cannot connect", True)


# Client certificates


@pytest.fixture
def picky(authority: tuple[ssl.SSLContext, Path]) -> Iterator[LoopbackServer]:
    """A server that wants a certificate of its own authority."""
    context, ca_file = authority
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(ca_file)
    with LoopbackServer({"x": b"data"}, tls=context) as server:
        yield server


def test_a_client_certificate(
    picky: LoopbackServer, authority: tuple[ssl.SSLContext, Path], tmp_path: Path
) -> None:
    ca_file = str(authority[1])
    target = Target("https", "127.0.0.1", picky.port)
    key = tmp_path / "key.pem"
    both = tmp_path / "both.pem"
    both.write_bytes(authority[1].read_bytes() + key.read_bytes())
    for tls in (
        LazyTrust(ca_file, certificate=ca_file, key=str(key)),
        LazyTrust(ca_file, certificate=str(both)),
    ):
        assert fetched(dial(target, pace=PACE, tls=tls)) == b"data"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("wrong", [False, True])
def test_no_client_certificate_or_another(
    picky: LoopbackServer,
    authority: tuple[ssl.SSLContext, Path],
    tmp_path: Path,
    version: ssl.TLSVersion,
    *,
    wrong: bool,
) -> None:
    tls = LazyTrust(str(authority[1]))
    if wrong:
        (tmp_path / "other").mkdir()
        _, other = certified(tmp_path / "other")
        key = str(other.with_name("key.pem"))
        tls = LazyTrust(str(authority[1]), certificate=str(other), key=key)
    tls.maximum_version = version
    with pytest.raises(TransportError) as caught:  # with TLS 1.3 it comes after the handshake
        fetched(dial(Target("https", "127.0.0.1", picky.port), pace=PACE, tls=tls))
    # The alert may be lost to the reset that follows it; then trying again shows it.
    assert isinstance(caught.value, AuthenticationError) or caught.value.retryable


# Proxies


class Tunnel:
    """A proxy that says what it is told to, and then passes bytes on."""

    def __init__(self, answer: bytes, *, to: int | None = None) -> None:
        self.asked = b""
        self._answer = answer
        self._to = to

    def __call__(self, connection: socket.socket) -> None:
        import socket
        import threading

        while b"\r\n\r\n" not in self.asked:
            self.asked += connection.recv(1000)
        connection.sendall(self._answer)
        if self._to is None:
            silent(connection)
            return
        with socket.create_connection(("127.0.0.1", self._to)) as onward:

            def pass_on(source: socket.socket, sink: socket.socket) -> None:
                try:
                    while data := source.recv(10_000):
                        sink.sendall(data)
                    sink.shutdown(socket.SHUT_WR)
                except OSError:
                    pass

            thread = threading.Thread(target=pass_on, args=(onward, connection))
            thread.start()
            pass_on(connection, onward)
            thread.join()


ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


def through(port: int, *, authorization: str | None = None, server: int = 443) -> Target:
    proxy = Proxy("127.0.0.1", port, authorization)
    return Target("https", "127.0.0.1", server, proxy)


def test_a_tunnel(listen: Listen, secure: LoopbackServer, tls: LazyTrust) -> None:
    tunnel = Tunnel(ESTABLISHED, to=secure.port)
    login = "Basic " + base64.b64encode(b"user:hush").decode()
    target = through(listen(tunnel), authorization=login, server=secure.port)
    assert fetched(dial(target, pace=PACE, tls=tls)) == b"data"
    lines = tunnel.asked.decode().split("\r\n")
    assert lines == [
        f"CONNECT 127.0.0.1:{secure.port} HTTP/1.1",
        f"Host: 127.0.0.1:{secure.port}",
        f"Proxy-Authorization: {login}",
        "",
        "",
    ]
    assert "hush" not in repr(target)


@pytest.mark.parametrize(
    ("answer", "kind", "problem", "retryable"),
    [
        (
            b"HTTP/1.1 407 Who?\r\nProxy-Authenticate: Basic\r\n\r\n",
            AuthenticationError,
            "proxy wants credentials",
            False,
        ),
        (b"HTTP/1.1 403 No\r\n\r\n", TransportError, "proxy refuses to connect", False),
        (b"HTTP/1.1 502 No\r\n\r\n", TransportError, "proxy refuses to connect", True),
        (b"SSH-2.0-x\r\n", BrokenAnswerError, "answer is not HTTP", True),
        (ESTABLISHED + b"\x16", BrokenAnswerError, "proxy says more than it was asked", False),
    ],
)
def test_proxies_that_refuse(
    listen: Listen,
    tls: LazyTrust,
    answer: bytes,
    kind: type[TransportError],
    problem: str,
    *,
    retryable: bool,
) -> None:
    port = listen(Tunnel(answer))
    error = failure(through(port), tls)
    assert isinstance(error, kind)
    assert (error.problem, error.retryable) == (problem, retryable)
    assert error.facts["proxy"] == f"127.0.0.1:{port}"


def test_a_proxy_that_drips_has_no_more_time_than_any(listen: Listen, tls: LazyTrust) -> None:
    def handler(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.settimeout(0.005)
        for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000:
            connection.sendall(bytes([byte]))
            try:
                if not connection.recv(1000):
                    return
            except TimeoutError:
                pass

    error = failure(through(listen(handler)), tls, HASTE)
    assert isinstance(error, SlowRemoteError)


def test_a_proxy_that_is_not_there(tls: LazyTrust) -> None:
    import socket

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        error = failure(through(port), tls)
    assert error.facts == {"reason": "connection refused", "proxy": f"127.0.0.1:{port}"}


def test_addresses_of_version_6_are_written_in_brackets() -> None:
    assert Target("https", "::1", 443).authority == "[::1]:443"
    assert Target("https", "cache.example", 443).authority == "cache.example:443"
