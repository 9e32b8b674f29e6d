"""The server over real sockets on loopback."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from nixfetch.errors import StoreError
from nixfetch.serve import Address, Limits, ListenError, Object, Server, make_server
from nixfetch.serve.connection import Patience
from nixfetch.serve.request import MAX_HEAD

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPBACK = Address("127.0.0.1", 0)
DATA = bytes(range(256)) * 4096  # 1 MiB
QUICK = Patience(idle=0.2, head=0.2, block=0.2)


class BrokenError(StoreError):
    """What `Memory` raises for the object ``broken``."""


class Memory:
    """A source with two good objects, and three that break."""

    @contextmanager
    def open(self, name: str) -> Iterator[Object | None]:
        match name:
            case "data":
                yield self._object(DATA)
            case "small":
                yield self._object(b"small")
            case "broken":
                raise BrokenError("no disk")
            case "soon" | "late":
                yield self._object(DATA, breaks=10 if name == "soon" else 600_000)
            case _:
                yield None

    def _object(self, data: bytes, breaks: int | None = None) -> Object:
        def read(start: int, stop: int) -> Iterator[bytes]:
            yield data[start : stop if breaks is None else breaks]
            if breaks is not None:
                raise BrokenError("the disk broke")

        return Object(size=len(data), media_type="text/x", read=read, tag="t")


@contextmanager
def serving(*, connections: int = 64, patience: Patience | None = None) -> Iterator[Server]:
    limits = Limits(connections, patience or Patience())
    with make_server(Memory(), LOOPBACK, limits=limits) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(server.address, timeout=10) as client:
        yield client


def ask(client: socket.socket, name: str, *fields: str, method: str = "GET") -> None:
    lines = [f"{method} /{name} HTTP/1.1", "Host: here", *fields, "", ""]
    client.sendall("\r\n".join(lines).encode())


def answer(client: socket.socket, *, body: bool = True) -> tuple[bytes, bytes]:
    """Head and body of the next answer; as much of it as comes."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = client.recv(65536)
        if not data:
            return received, b""
        received += data
    head, _, rest = received.partition(b"\r\n\r\n")
    size = next(int(line[16:]) for line in head.split(b"\r\n") if line[:15] == b"Content-Length:")
    while body and len(rest) < size and (data := client.recv(65536)):
        rest += data
    assert len(rest) <= size
    return head, rest


def to_the_end(client: socket.socket) -> bytes:
    received = b""
    while data := client.recv(65536):
        received += data
    return received


def test_many_requests_on_one_connection(server: Server) -> None:
    with connected(server) as client:
        for _ in range(3):
            ask(client, "data")
            head, body = answer(client)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert body == DATA
            ask(client, "none")
            assert answer(client)[0].startswith(b"HTTP/1.1 404 ")
            ask(client, "data", "Range: bytes=5-6")
            head, body = answer(client)
            assert head.startswith(b"HTTP/1.1 206 ")
            assert body == DATA[5:7]


def test_requests_may_come_before_answers_go(server: Server) -> None:
    with connected(server) as client:
        ask(client, "small")
        ask(client, "small", "Connection: close")
        assert to_the_end(client).count(b"\r\n\r\nsmall") == 2


def test_head_has_the_length_and_no_body(server: Server) -> None:
    with connected(server) as client:
        ask(client, "data", method="HEAD")
        head, body = answer(client, body=False)
        assert b"Content-Length: 1048576\r\n" in head + b"\r\n"
        assert body == b""
        ask(client, "small")
        assert answer(client)[1] == b"small"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get", "BREW"])
def test_other_methods_are_not_allowed(server: Server, method: str) -> None:
    with connected(server) as client:
        ask(client, "small", "Content-Length: 3", method=method)
        head, _ = answer(client)
        assert head.startswith(b"HTTP/1.1 405 ")
        assert b"\r\nAllow: GET, HEAD\r\n" in head
        assert to_the_end(client) == b""


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 2 * MAX_HEAD + b" HTTP/1.1\r\nHost: a\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 10_000 + b"\r\n", b"431"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_request_is_refused(server: Server, request_: bytes, status: bytes) -> None:
    with connected(server) as client:
        client.sendall(request_)
        assert answer(client)[0].startswith(b"HTTP/1.1 " + status)
        assert to_the_end(client) == b""
    with connected(server) as client:
        ask(client, "small")
        assert answer(client)[1] == b"small"


@pytest.mark.parametrize("name", ["broken", "soon"])
def test_an_error_before_the_answer_is_a_500(server: Server, name: str) -> None:
    with connected(server) as client:
        ask(client, name)
        head, _ = answer(client)
        assert head.startswith(b"HTTP/1.1 500 ")
        assert to_the_end(client) == b""


def test_an_error_in_the_answer_cuts_it_short(server: Server) -> None:
    with connected(server) as client:
        ask(client, "late")
        head, body = answer(client)
        assert b"Content-Length: 1048576\r\n" in head + b"\r\n"
        assert len(body) < len(DATA)


def test_an_idle_connection_is_closed() -> None:
    with serving(patience=QUICK) as server, connected(server) as client:
        assert client.recv(1) == b""


def test_a_dripping_head_is_cut_off() -> None:
    with serving(patience=QUICK) as server, connected(server) as client:
        begin = time.monotonic()
        with suppress(OSError):  # a reset or a broken pipe
            for byte in b"GET /" + b"a" * 1000:
                client.sendall(bytes([byte]))
                time.sleep(0.02)
        assert time.monotonic() - begin < 5


def test_who_does_not_read_is_cut_off() -> None:
    with serving(patience=QUICK) as server, connected(server) as client:
        for _ in range(64):  # more than the kernel buffers
            ask(client, "data")
        time.sleep(0.6)
        received = 0
        with suppress(ConnectionResetError):
            while data := client.recv(65536):
                received += len(data)
        assert received < 64 * len(DATA)


def test_no_more_connections_than_places() -> None:
    with serving(connections=2) as server:  # noqa: SIM117 - the clients go first
        with connected(server) as first, connected(server) as second:
            first.sendall(b"GET /small")  # at work, as far as anyone can tell
            second.sendall(b"GET /small")
            time.sleep(0.1)
            with connected(server) as third:
                ask(third, "small")
                third.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    third.recv(1)
                first.close()
                third.settimeout(10)
                assert answer(third)[1] == b"small"


def test_an_idle_connection_makes_room() -> None:
    with serving(connections=2) as server, connected(server) as old:
        ask(old, "small")
        assert answer(old)[1] == b"small"
        # An answer may be here before the server's thread has noted that it is idle. The next one
        # comes after that: it is idle too until it asks for something.
        deadline = time.monotonic() + 30
        while None in server._idle_since.values():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        with connected(server) as young:
            ask(young, "small")
            assert answer(young)[1] == b"small"
            with connected(server) as third:
                ask(third, "small")
                assert answer(third)[1] == b"small"
                assert old.recv(1) == b""


def test_closing_cuts_off_whoever_is_connected() -> None:
    with serving() as server, connected(server) as client:
        ask(client, "small")
        answer(client)
        begin = time.monotonic()
        server.close()
        assert time.monotonic() - begin < 2
        assert client.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(server.address).close()


def test_a_port_that_is_taken(server: Server) -> None:
    with pytest.raises(ListenError) as caught:
        make_server(Memory(), server.address)
    assert caught.value.hint
    assert caught.value.exit_code == 6


def test_ipv6() -> None:
    try:
        server = make_server(Memory(), Address("::1", 0))
    except ListenError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with server:
        assert server.url == f"http://[::1]:{server.address.port}"
