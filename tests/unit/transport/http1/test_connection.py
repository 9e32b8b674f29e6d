"""One connection over a pair of sockets: what the other end may do to us."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING

import pytest

from nixfetch.errors import TransportError
from nixfetch.transport import Pace
from nixfetch.transport.answers import BrokenAnswerError
from nixfetch.transport.http1.connection import (
    PIECE,
    ClosedTransportError,
    Connection,
    StaleConnectionError,
)
from nixfetch.transport.http1.head import MAX_HEAD, MAX_INTERIM
from nixfetch.transport.waiting import SlowRemoteError
from servers import certified

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nixfetch.transport.http1.head import Head

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
PACE = Pace(stall=10)
OK = b"HTTP/1.1 200 OK\r\n"
EMPTY = OK + b"Content-Length: 0\r\n\r\n"


class Wire:
    """A connection, and the remote's end of it."""

    def __init__(self) -> None:
        ours, self.remote = socket.socketpair()
        self.connection = Connection(ours)

    def says(self, data: bytes) -> None:
        self.remote.sendall(data)

    def hangs_up(self) -> None:
        self.remote.shutdown(socket.SHUT_WR)

    def ask(self, pace: Pace = PACE) -> Head:
        return self.connection.ask(REQUEST, pace)

    def read(self) -> bytes:
        body, _ = self.connection.body(self.ask())
        return b"".join(body)

    def failure(self, pace: Pace = PACE) -> TransportError:
        with pytest.raises(TransportError) as caught:
            self.ask(pace)
        return caught.value


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.connection.close()
    wire.remote.close()


def test_a_remote_that_answers_and_hangs_up_before_it_was_asked(wire: Wire) -> None:
    wire.says(b"HTTP/1.1 503 Busy\r\n\r\n")
    wire.hangs_up()
    assert wire.ask().status == 503


def test_a_request_and_its_answer(wire: Wire) -> None:
    wire.says(OK + b"Content-Length: 4\r\n\r\nbody")
    assert wire.read() == b"body"
    assert wire.remote.recv(1000) == REQUEST
    assert wire.connection.is_alive()


def test_a_large_request_goes_out_in_parts(wire: Wire) -> None:
    wire.connection._stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    request = REQUEST[:-2] + b"X: " + b"x" * 3_000_000 + b"\r\n\r\n"
    received = bytearray()

    def remote() -> None:
        while len(received) < len(request):
            received.extend(wire.remote.recv(100_000))
        wire.says(EMPTY)

    thread = threading.Thread(target=remote)
    thread.start()
    assert wire.connection.ask(request, PACE).status == 200
    thread.join()
    assert received == request


def test_a_remote_that_does_not_take_the_request(wire: Wire) -> None:
    request = REQUEST[:-2] + b"X: " + b"x" * 30_000_000 + b"\r\n\r\n"
    with pytest.raises(SlowRemoteError):
        wire.connection.ask(request, Pace(stall=0.1))


def test_interim_answers_are_passed_over(wire: Wire) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    wire.says(hints * MAX_INTERIM + EMPTY)
    assert wire.ask().status == 200


def test_a_flood_of_interim_answers(wire: Wire) -> None:
    wire.says(b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_INTERIM + 1) + EMPTY)
    assert wire.failure().problem == "too many interim answers"


def test_interim_answers_share_the_limit_of_a_head(wire: Wire) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nX: " + b"x" * (MAX_HEAD // 2) + b"\r\n\r\n"
    thread = threading.Thread(target=wire.says, args=(hints * 2 + EMPTY,))
    thread.start()
    assert wire.failure().problem == "head of the answer is too large"
    wire.connection.close()
    thread.join()


def test_another_protocol(wire: Wire) -> None:
    wire.says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n")
    assert isinstance(wire.failure(), BrokenAnswerError)


def test_a_server_that_talks_tls_is_known_by_its_first_bytes(wire: Wire) -> None:
    wire.says(b"\x15\x03\x01\x00\x02\x02\x46")
    error = wire.failure()
    assert error.problem == "remote talks TLS on this port"
    assert not error.retryable


def test_an_endless_head(wire: Wire) -> None:
    wire.says(OK + b"X: " + b"x" * MAX_HEAD)
    assert wire.failure().problem == "head of the answer is too large"


@pytest.mark.parametrize("said", [b"", b"HTTP", OK, OK + b"A: b\r\n"])
def test_silence_in_the_head(wire: Wire, said: bytes) -> None:
    wire.says(said)
    error = wire.failure(Pace(stall=0.05))
    assert isinstance(error, SlowRemoteError)
    assert error.retryable


def dripping(wire: Wire, data: bytes) -> threading.Thread:
    def drip() -> None:
        for byte in data:
            try:
                wire.says(bytes([byte]))
            except OSError:
                return
            time.sleep(0.01)

    thread = threading.Thread(target=drip)
    thread.start()
    return thread


def test_a_head_that_drips(wire: Wire) -> None:
    thread = dripping(wire, OK + b"X: " + b"x" * 2000)
    assert isinstance(wire.failure(Pace(stall=0.2)), SlowRemoteError)
    wire.connection.close()
    thread.join()


def test_chunks_that_drip(wire: Wire) -> None:
    wire.says(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    thread = dripping(wire, b"1\r\nx\r\n" * 300)
    body, _ = wire.connection.body(wire.ask(Pace(stall=0.2)))
    with pytest.raises(SlowRemoteError):
        list(body)
    wire.connection.close()
    thread.join()


def test_time_in_which_nobody_reads_is_no_waiting(wire: Wire) -> None:
    wire.says(OK + b"Content-Length: 4\r\n\r\n")
    body, _ = wire.connection.body(wire.ask(Pace(stall=0.3)))
    time.sleep(0.5)
    wire.says(b"body")
    assert b"".join(body) == b"body"


def test_without_a_limit_there_is_none(wire: Wire) -> None:
    threading.Timer(0.1, wire.says, [EMPTY]).start()
    assert wire.ask(Pace(stall=None)).status == 200


def test_hurry(wire: Wire) -> None:
    wire.says(OK + b"Content-Length: 4\r\n\r\nbo")
    body, _ = wire.connection.body(wire.ask())
    wire.connection.hurry(0.05)
    assert next(body) == b"bo"
    with pytest.raises(SlowRemoteError):
        next(body)


def test_pieces_are_no_larger_than_allowed(wire: Wire) -> None:
    data = bytes(3_000_000)
    for head, tail in (
        (OK + b"Content-Length: 3000000\r\n\r\n", b""),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2dc6c0\r\n", b"\r\n0\r\n\r\n"),
    ):
        thread = threading.Thread(target=wire.says, args=(head + data + tail,))
        thread.start()
        body, reusable = wire.connection.body(wire.ask())
        pieces = list(body)
        assert max(map(len, pieces)) <= PIECE
        assert (sum(map(len, pieces)), reusable) == (3_000_000, True)
        thread.join()


def test_tiny_chunks_come_as_few_pieces(wire: Wire) -> None:
    count = 20_000
    answer = OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * count + b"0\r\n\r\n"
    thread = threading.Thread(target=wire.says, args=(answer,))
    thread.start()
    body, _ = wire.connection.body(wire.ask())
    pieces = list(body)
    assert b"".join(pieces) == b"x" * count
    assert len(pieces) < count // 10
    thread.join()


def test_two_answers_at_once_are_kept_apart_and_one_too_many_is_no_peace(wire: Wire) -> None:
    wire.says(OK + b"Content-Length: 1\r\n\r\na" + EMPTY)
    assert wire.read() == b"a"
    assert not wire.connection.is_alive()


def test_a_body_until_the_end(wire: Wire) -> None:
    wire.says(OK + b"\r\nall of it")
    wire.hangs_up()
    head = wire.ask()
    body, reusable = wire.connection.body(head)
    assert (b"".join(body), reusable) == (b"all of it", False)


def test_chunks_and_a_length_end_the_connection(wire: Wire) -> None:
    wire.says(OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n")
    body, reusable = wire.connection.body(wire.ask())
    assert (list(body), reusable) == ([], False)


# Connections that are gone


def test_hanging_up_before_the_first_answer_is_the_remotes_fault(wire: Wire) -> None:
    wire.hangs_up()
    error = wire.failure()
    assert not isinstance(error, StaleConnectionError)
    assert error.retryable


def test_hanging_up_in_the_head(wire: Wire) -> None:
    wire.says(EMPTY)
    wire.read()
    wire.says(OK)
    wire.hangs_up()
    error = wire.failure()
    assert error.problem == "remote hung up in the head of its answer"
    assert not isinstance(error, StaleConnectionError)


def test_a_kept_connection_that_was_closed(wire: Wire) -> None:
    wire.says(EMPTY)
    wire.read()
    assert wire.connection.is_alive()
    wire.hangs_up()
    assert not wire.connection.is_alive()
    assert isinstance(wire.failure(), StaleConnectionError)


def test_a_kept_connection_that_was_reset(wire: Wire) -> None:
    wire.says(EMPTY)
    wire.read()
    wire.remote.close()  # with a request unread
    assert not wire.connection.is_alive()
    assert isinstance(wire.failure(), StaleConnectionError)


def test_a_kept_connection_that_is_silent_is_not_stale(wire: Wire) -> None:
    wire.says(EMPTY)
    wire.read()
    assert isinstance(wire.failure(Pace(stall=0.05)), SlowRemoteError)


# Another thread


@pytest.mark.parametrize("said", [b"", OK, OK + b"\r\n", OK + b"Content-Length: 9\r\n\r\n"])
def test_whoever_waits_wakes_up(wire: Wire, said: bytes) -> None:
    wire.says(said)
    timer = threading.Timer(0.05, wire.connection.abort)
    timer.start()
    with pytest.raises(ClosedTransportError):
        wire.read()
    timer.join()


def test_what_was_cut_off_by_us_is_no_whole_body(wire: Wire) -> None:
    wire.says(OK + b"\r\nhalf")
    body, _ = wire.connection.body(wire.ask())
    assert next(body) == b"half"
    wire.connection.abort()
    with pytest.raises(ClosedTransportError):
        next(body)


# TLS


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[tuple[Connection, ssl.SSLSocket]]:
    """A connection with TLS, and the remote's end of it."""
    server, ca_file = certified(tmp_path)
    client = ssl.create_default_context(cafile=ca_file)
    ours, remote = socket.socketpair()
    ends: list[ssl.SSLSocket] = []
    thread = threading.Thread(
        target=lambda: ends.append(server.wrap_socket(remote, server_side=True))
    )
    thread.start()
    stream = client.wrap_socket(ours, server_hostname="127.0.0.1", suppress_ragged_eofs=False)
    thread.join()
    yield Connection(stream), ends[0]
    stream.close()
    ends[0].close()


def test_a_body_that_is_cut_off_is_no_end_over_tls(
    secured: tuple[Connection, ssl.SSLSocket],
) -> None:
    connection, remote = secured
    remote.sendall(OK + b"\r\nhalf")
    body, _ = connection.body(connection.ask(REQUEST, PACE))
    assert next(body) == b"half"
    socket.socket.shutdown(remote, socket.SHUT_RDWR)  # as anybody on the way can
    with pytest.raises(TransportError) as caught:
        next(body)
    assert caught.value.retryable


def test_records_that_do_not_get_whole(secured: tuple[Connection, ssl.SSLSocket]) -> None:
    connection, remote = secured
    remote.sendall(OK + b"Content-Length: 10\r\n\r\n")
    body, _ = connection.body(connection.ask(REQUEST, Pace(stall=0.2)))
    raw = socket.socket(fileno=remote.detach())
    with raw:
        record = b"\x17\x03\x03\x40\x00"
        stop = threading.Event()

        def drip() -> None:
            for byte in record + bytes(16_000):
                if stop.wait(0.005):
                    return
                raw.send(bytes([byte]))

        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(SlowRemoteError):
            next(body)
        stop.set()
        thread.join()


def test_a_thread_that_reads_over_tls_wakes_up(secured: tuple[Connection, ssl.SSLSocket]) -> None:
    connection, _ = secured
    timer = threading.Timer(0.05, connection.abort)
    timer.start()
    with pytest.raises(ClosedTransportError):
        connection.ask(REQUEST, PACE)
    timer.join()


# Whoever waits may give up.


class _GivenUpError(Exception):
    """Raised by the one who waits."""


def give_up() -> None:
    raise _GivenUpError


def test_who_waits_for_a_head_may_give_up(wire: Wire) -> None:
    wire.says(OK)
    with pytest.raises(_GivenUpError):
        wire.ask(Pace(stall=60, pausing=give_up))


def test_who_waits_for_a_body_may_give_up(wire: Wire) -> None:
    wire.says(OK + b"Content-Length: 10\r\n\r\n12345")
    body, _ = wire.connection.body(wire.ask(Pace(stall=60, pausing=give_up)))
    assert next(body) == b"12345"
    with pytest.raises(_GivenUpError):
        next(body)


def test_who_need_not_wait_is_not_asked(wire: Wire) -> None:
    wire.says(EMPTY)
    assert wire.ask(Pace(pausing=give_up)).status == 200
