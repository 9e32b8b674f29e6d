from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

import nixfetch
from fake_containerd import Fake, eventually, fake_containerd, serving
from nixfetch.errors import FormatError
from snapshotter import errors
from snapshotter._pb import content_pb2, leases_pb2
from snapshotter.cri.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CREATE = "/containerd.services.leases.v1.Leases/Create"
WRITE = "/containerd.services.content.v1.Content/Write"


@pytest.fixture
def fake() -> Iterator[Fake]:
    with fake_containerd() as found:
        yield found


@pytest.fixture
def connection(fake: Fake) -> Iterator[Connection]:
    with Connection(fake.socket) as found:
        yield found


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.ALREADY_EXISTS, errors.AlreadyExistsError),
        (grpc.StatusCode.NOT_FOUND, errors.NotFoundError),
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidArgumentError),
        (grpc.StatusCode.FAILED_PRECONDITION, errors.PreconditionError),
        (grpc.StatusCode.UNAVAILABLE, errors.UnavailableError),
        (grpc.StatusCode.INTERNAL, errors.UnavailableError),
    ],
)
@pytest.mark.parametrize("cancelled", [None, lambda: False])
def test_statuses(
    status: grpc.StatusCode,
    kind: type[Exception],
    cancelled: None,
    fake: Fake,
    connection: Connection,
) -> None:
    fake.faults["Leases/Create"] = status
    with pytest.raises(kind, match=r"method=Leases/Create.*reason=as it was told") as caught:
        connection.call(CREATE, leases_pb2.CreateRequest(id="a"), Empty, cancelled=cancelled)
    assert isinstance(caught.value, nixfetch.NixfetchError)
    assert caught.value.facts["status"] == status.name


def test_who_calls_gives_up(fake: Fake, connection: Connection) -> None:
    going, cancelled = threading.Event(), threading.Event()

    def stall() -> None:
        cancelled.set()
        assert going.wait(30.0)

    fake.faults["Leases/Create"] = stall
    try:
        with pytest.raises(nixfetch.CancelledError):
            connection.call(
                CREATE, leases_pb2.CreateRequest(id="a"), Empty, cancelled=cancelled.is_set
            )
    finally:
        going.set()


def test_nobody_is_there_and_then_somebody(tmp_path: Path) -> None:
    """It fails at once, not after a while; and finds whoever comes later by itself."""
    with fake_containerd() as fake:
        pass  # the socket has a good short name; nobody listens on it now
    fake.socket.parent.mkdir()
    with Connection(fake.socket) as connection:
        begun = time.monotonic()
        for _ in range(3):
            with pytest.raises(errors.UnavailableError, match="does not answer") as caught:
                connection.call(CREATE, leases_pb2.CreateRequest(id="a"), Empty)
            assert caught.value.facts["socket"] == str(fake.socket)
        assert time.monotonic() - begun < 20
        with serving(fake):

            def answers() -> bool:
                try:
                    connection.call(CREATE, leases_pb2.CreateRequest(id="a"), Empty)
                except errors.UnavailableError:
                    return False
                return True

            eventually(answers)
    fake.socket.parent.rmdir()


def request(ref: str = "r", data: bytes = b"x") -> content_pb2.WriteContentRequest:
    return content_pb2.WriteContentRequest(action=content_pb2.WRITE, ref=ref, data=data)


def test_an_exchange(fake: Fake, connection: Connection) -> None:
    first, second = request(data=b"ab"), request(data=b"cd")
    second.offset = 2
    exchange = connection.exchange(
        WRITE, lambda: iter((first, second)), content_pb2.WriteContentResponse
    )
    last = exchange.end()
    assert last is not None
    assert last.action == content_pb2.WRITE
    assert fake.ingests == {"r": b"abcd"}
    exchange.abandon()  # over


def test_messages_that_cannot_be_made(fake: Fake, connection: Connection) -> None:
    def requests() -> Iterator[content_pb2.WriteContentRequest]:
        yield request()
        raise FormatError("cut short", offset=1)

    exchange = connection.exchange(WRITE, requests, content_pb2.WriteContentResponse)
    with pytest.raises(FormatError, match="cut short"):
        exchange.end()


def test_an_exchange_that_is_refused(fake: Fake, connection: Connection) -> None:
    """Then no more messages are made."""
    fake.faults["Content/Write"] = grpc.StatusCode.ALREADY_EXISTS
    made: list[int] = []

    def requests() -> Iterator[content_pb2.WriteContentRequest]:
        for number in range(10_000):
            made.append(number)
            yield request(data=bytes(100_000))

    exchange = connection.exchange(WRITE, requests, content_pb2.WriteContentResponse)
    with pytest.raises(errors.AlreadyExistsError):
        exchange.end()
    count = len(made)
    time.sleep(0.05)
    assert len(made) == count < 10_000


def test_an_exchange_that_nobody_wants(fake: Fake, connection: Connection) -> None:
    def requests() -> Iterator[content_pb2.WriteContentRequest]:
        offset = 0
        while True:
            message = request()
            message.offset = offset
            offset += 1
            yield message

    exchange = connection.exchange(
        WRITE,
        requests,
        content_pb2.WriteContentResponse,
        cancelled=lambda: len(fake.ingests.get("r", b"")) > 3,
    )
    with pytest.raises(nixfetch.CancelledError):
        exchange.end()
    # And one that is given up before its end is asked for.
    connection.exchange(WRITE, requests, content_pb2.WriteContentResponse).abandon()
