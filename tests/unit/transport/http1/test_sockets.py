from __future__ import annotations

import errno
import socket
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from nixfetch.errors import TransportError
from nixfetch.transport.deadline import Deadline
from nixfetch.transport.http1.sockets import MAX_ADDRESSES, _ordered, connected, lookup

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

V4, V6 = socket.AF_INET, socket.AF_INET6


def tcp(port: int, host: str = "127.0.0.1") -> tuple[Any, ...]:
    return (V4, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))


@pytest.fixture
def listener() -> Iterator[int]:
    """A port where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@pytest.fixture
def silent() -> Iterator[int]:
    """A port where nobody answers, not even to say no: its queue is full."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            stream = stack.enter_context(socket.socket())
            stream.settimeout(0.0)
            assert stream.connect_ex(server.getsockname()) in {0, errno.EINPROGRESS}
        yield int(server.getsockname()[1])


@pytest.fixture
def closed() -> Iterator[int]:
    """A port where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


def connect(*addresses: tuple[Any, ...], seconds: float | None = 10.0) -> int:
    """The port that was reached."""
    deadline = Deadline(seconds)
    with connected("cache.example", 80, deadline, lookup=lambda _host, _port: addresses) as stream:
        assert stream.gettimeout() == 0.0
        assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        return int(stream.getpeername()[1])


def failure(*addresses: tuple[Any, ...], seconds: float = 10.0) -> TransportError:
    with pytest.raises(TransportError) as caught:
        connect(*addresses, seconds=seconds)
    assert caught.value.problem == "cannot connect"
    assert caught.value.retryable
    return caught.value


@pytest.mark.parametrize("seconds", [None, 10.0])
def test_one_address(listener: int, seconds: float | None) -> None:
    assert connect(tcp(listener), seconds=seconds) == listener


def test_the_next_one_after_a_failure(listener: int, closed: int) -> None:
    unknown = (12345, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ())
    assert connect(unknown, tcp(closed), tcp(listener)) == listener


def test_the_next_one_while_the_first_is_silent(listener: int, silent: int) -> None:
    assert connect(tcp(silent), tcp(silent), tcp(listener)) == listener


def test_nobody_answers_in_time(silent: int) -> None:
    error = failure(tcp(silent), tcp(silent), seconds=0.4)
    assert error.facts == {"reason": "timed out", "seconds": 0.4}


def test_nobody_listens(closed: int) -> None:
    assert failure(tcp(closed), tcp(closed)).facts == {"reason": "connection refused"}


def test_a_name_without_addresses() -> None:
    assert failure().facts == {"reason": "the name has no address"}


@pytest.mark.parametrize(
    "problem", [socket.gaierror(socket.EAI_NONAME, "Name or service not known"), UnicodeError("x")]
)
def test_a_name_that_does_not_resolve(problem: Exception) -> None:
    def look(_host: str, _port: int) -> Sequence[tuple[Any, ...]]:
        raise problem

    with pytest.raises(TransportError) as caught:
        connected("cache.example", 80, Deadline(10), lookup=look)
    assert caught.value.retryable


def test_a_resolver_that_is_silent() -> None:
    over = threading.Event()

    def look(_host: str, _port: int) -> Sequence[tuple[Any, ...]]:
        over.wait(20)
        return []

    began = time.monotonic()
    with pytest.raises(TransportError) as caught:
        connected("cache.example", 80, Deadline(0.1), lookup=look)
    assert time.monotonic() - began < 10
    assert caught.value.facts == {"reason": "timed out", "seconds": 0.1}
    over.set()


def test_addresses_are_not_looked_up(listener: int) -> None:
    def look(_host: str, _port: int) -> Sequence[tuple[Any, ...]]:
        pytest.fail("looked up")

    connected("127.0.0.1", listener, Deadline(10), lookup=look).close()


def test_the_system_knows_this_machine() -> None:
    assert any(address[4][0] in {"127.0.0.1", "::1"} for address in lookup("localhost", 80))


def test_families_take_turns_and_have_an_end() -> None:
    six = [(V6, n) for n in range(3)]
    four = [(V4, n) for n in range(100)]
    ordered = _ordered([*six, *four])
    assert ordered[:7] == [six[0], four[0], six[1], four[1], six[2], four[2], four[3]]
    assert len(ordered) == MAX_ADDRESSES


def test_deadlines() -> None:
    now = 5.0
    deadline = Deadline(2.0, clock=lambda: now)
    assert deadline.left == 2.0
    now = 6.5
    assert deadline.left == 0.5
    now = 7.0
    with pytest.raises(TransportError):
        _ = deadline.left
    assert Deadline(None).left is None
