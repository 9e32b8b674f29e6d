"""Heads of a bucket's answers that drip, that never end, or are none."""

from __future__ import annotations

import socketserver
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import boto3
import pytest

from nixfetch.errors import TransportError
from nixfetch.transport import Pace, TransportOptions
from nixfetch.transport.answers import BrokenAnswerError
from nixfetch.transport.s3 import connect
from nixfetch.transport.waiting import SlowRemoteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Server:
    """Gives whoever asks the pieces of `answer`, again and again, until it goes away."""

    def __init__(self) -> None:
        self.answer: Callable[[], Iterator[bytes]] = lambda: iter([b""])
        self.stop = threading.Event()
        server = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while self.rfile.readline().strip():
                    pass
                try:
                    for piece in server.answer():
                        self.wfile.write(piece)
                except OSError:
                    pass

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.stop.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def drip(self, first: bytes, drop: bytes) -> Iterator[bytes]:
        yield first
        while not self.stop.wait(0.1):
            yield drop


@pytest.fixture
def server() -> Iterator[Server]:
    with closing(Server()) as server:
        yield server


def failure(server: Server, *, stall: float = 1.0) -> TransportError:
    session = boto3.Session(aws_access_key_id="key", aws_secret_access_key="secret")
    options = TransportOptions(trust_env=False, pace=Pace(connect=10, stall=stall))
    url = f"s3://cache?endpoint={server.url}"
    with (
        closing(connect(url, options=options, session=session)) as bucket,
        pytest.raises(TransportError) as caught,
        bucket.open("x") as body,
    ):
        b"".join(body.chunks)
    assert caught.value.facts["url"] == "s3://cache/x"
    return caught.value


@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\n", b"a"),
        (b"HTTP/1.1 200 OK\r\nA: ", b"a\r\nB: "),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", b"a"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 99999\r\n\r\n", b"a"),
    ],
    ids=["status", "field", "fields", "interim", "body", "error"],
)
def test_what_drips(server: Server, first: bytes, drop: bytes) -> None:
    server.answer = lambda: server.drip(first, drop)
    error = failure(server)
    assert isinstance(error, SlowRemoteError)
    assert error.retryable


def test_a_head_without_end(server: Server) -> None:
    def endless() -> Iterator[bytes]:
        while not server.stop.is_set():
            yield b"HTTP/1.1 100 Continue\r\n\r\n" * 1000

    server.answer = endless
    assert isinstance(failure(server, stall=60), BrokenAnswerError)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nA: b"])
def test_what_is_no_answer(server: Server, answer: bytes) -> None:
    server.answer = lambda: iter([answer])
    assert failure(server, stall=60).retryable
