"""The engine over loopback: connections that are kept, proxies, and being closed."""

from __future__ import annotations

import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import httpx
import pytest

from nixfetch.errors import TransportError
from nixfetch.transport import Pace, UrlError
from nixfetch.transport.http1.adapter import MAX_DISCARD, PACE, Engine, discard
from nixfetch.transport.http1.connection import ClosedTransportError
from nixfetch.transport.http1.proxies import Proxies
from nixfetch.transport.waiting import SlowRemoteError
from servers import Answer, LoopbackServer, wait_until

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    Listen = Callable[[Callable[[socket.socket], None]], int]

DATA = bytes(1_000_000)


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer({"x": DATA}) as server:
        yield server


def make(connections: int = 4, proxies: dict[str, str] | None = None) -> Engine:
    return Engine(
        tls=ssl.create_default_context(),
        pace=Pace(connect=10, stall=10),
        connections=connections,
        proxies=None if proxies is None else Proxies(proxies),
    )


@pytest.fixture
def engine() -> Iterator[Engine]:
    with make() as engine:
        yield engine


def get(engine: Engine, url: str, **fields: str) -> httpx.Response:
    return engine.handle_request(httpx.Request("GET", url, headers=fields))


def read(engine: Engine, url: str) -> bytes:
    with closing(get(engine, url)) as response:
        return b"".join(response.iter_raw())


def test_an_answer(engine: Engine, server: LoopbackServer) -> None:
    with closing(get(engine, f"{server.url}/x?y=1", **{"X-Own": "a"})) as response:
        assert response.status_code == 200
        assert response.headers["content-length"] == str(len(DATA))
        assert b"".join(response.iter_raw()) == DATA
    [request] = server.requests
    assert (request.method, request.target, request.headers["x-own"]) == ("GET", "/x?y=1", "a")


def test_connections_are_used_again_unless_a_body_was_left(
    engine: Engine, server: LoopbackServer
) -> None:
    for _ in range(3):
        assert read(engine, f"{server.url}/x") == DATA
    assert server.connections == 1
    get(engine, f"{server.url}/x").close()
    assert read(engine, f"{server.url}/x") == DATA
    assert server.connections == 2


def test_a_kept_connection_that_died_is_replaced(engine: Engine, listen: Listen) -> None:
    served: list[int] = []

    def handler(connection: socket.socket) -> None:
        for _ in range(2):
            connection.recv(1000)
            if served == [1]:
                served.append(2)
                return  # hangs up on the second request, once
            served.append(1)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na")

    url = f"http://127.0.0.1:{listen(handler)}/"
    assert read(engine, url) == b"a"
    assert read(engine, url) == b"a"
    assert served == [1, 2, 1]


def test_a_server_that_always_hangs_up_is_asked_once_more_and_no_more(
    engine: Engine, listen: Listen
) -> None:
    requests: list[bytes] = []

    def handler(connection: socket.socket) -> None:
        requests.append(connection.recv(1000))
        if len(requests) == 1:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            requests.append(connection.recv(1000))

    url = f"http://127.0.0.1:{listen(handler)}/"
    read(engine, url)
    with pytest.raises(TransportError):
        read(engine, url)
    assert len(requests) == 3


def test_the_pace_of_a_request(engine: Engine, server: LoopbackServer) -> None:
    server.faults["x"] = Answer(DATA, delay=10)
    pace = {PACE: Pace(stall=0.05)}
    with pytest.raises(SlowRemoteError):
        engine.handle_request(httpx.Request("GET", f"{server.url}/x", extensions=pace))


def test_what_would_end_a_line_is_not_sent(engine: Engine) -> None:
    for fields in ({"x": "a\r\nb: c"}, {"x": "a\nb"}, {"x": "a\0"}):
        with pytest.raises(UrlError):
            get(engine, "http://127.0.0.1:9/", **fields)


# Unwanted bodies


@pytest.mark.parametrize(
    ("answer", "connections"),
    [
        (Answer(b"none", 404), 1),
        (Answer(b"none", 404, chunked=True), 1),
        (Answer(bytes(MAX_DISCARD), 404), 1),
        (Answer(bytes(MAX_DISCARD + 1), 404), 2),
        (Answer(bytes(MAX_DISCARD + 1), 404, chunked=True), 2),
        (Answer(b"none", 404, {"Connection": "close"}), 2),
        (Answer(b"none", 404, cut=2), 2),
    ],
)
def test_unwanted_bodies(
    engine: Engine, server: LoopbackServer, answer: Answer, connections: int
) -> None:
    server.faults["none"] = answer
    discard(get(engine, f"{server.url}/none"))
    assert read(engine, f"{server.url}/x") == DATA
    assert server.connections == connections


# Threads


def test_threads_share_it_and_no_more_connections_than_allowed(server: LoopbackServer) -> None:
    with make(connections=3) as engine, ThreadPoolExecutor(12) as pool:
        url = f"{server.url}/x"
        assert all(data == DATA for data in pool.map(lambda _: read(engine, url), range(60)))
    assert server.connections <= 3


@pytest.mark.parametrize("answer", [Answer(DATA, delay=20), Answer(DATA, pause=20, piece=1000)])
def test_closing_ends_whoever_waits(server: LoopbackServer, answer: Answer) -> None:
    server.faults["x"] = answer
    engine = make(connections=2)
    with ThreadPoolExecutor(5) as pool:  # three wait for their turn
        futures = [pool.submit(read, engine, f"{server.url}/x") for _ in range(5)]
        wait_until(lambda: server.asked("x") == 2)
        engine.close()
        for future in futures:
            assert isinstance(future.exception(10), ClosedTransportError)
    with pytest.raises(ClosedTransportError):
        read(engine, f"{server.url}/x")


def test_closing_in_the_middle_of_a_body(server: LoopbackServer) -> None:
    engine = make()
    with closing(get(engine, f"{server.url}/x")) as response:
        pieces = response.iter_raw()
        next(pieces)
        closer = threading.Thread(target=engine.close)
        closer.start()
        closer.join()
        with pytest.raises(ClosedTransportError):
            list(pieces)


# Proxies


def test_plain_requests_are_sent_to_the_proxy_whole(server: LoopbackServer) -> None:
    server.faults["*"] = Answer(b"by proxy")
    proxy = server.url.replace("//", "//user:hush@")
    with make(proxies={"http": proxy}) as engine:
        assert read(engine, "http://cache.invalid:8080/a?b") == b"by proxy"
    [request] = server.requests
    assert request.target == "http://cache.invalid:8080/a?b"
    assert request.headers["host"] == "cache.invalid:8080"
    assert request.headers["proxy-authorization"] == "Basic dXNlcjpodXNo"


def test_a_proxy_of_another_kind_is_an_error_when_it_is_needed(server: LoopbackServer) -> None:
    with make(proxies={"all": "socks5://127.0.0.1:1080", "no": "127.0.0.1"}) as engine:
        assert read(engine, f"{server.url}/x") == DATA
        with pytest.raises(UrlError) as caught:
            read(engine, "http://cache.invalid/")
    assert caught.value.facts == {"kind": "socks5"}
