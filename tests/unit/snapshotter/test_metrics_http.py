from __future__ import annotations

import http.client
import socket
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from snapshotter.config import SettingsError
from snapshotter.metrics_http import MetricsServer
from snapshotter.sockets import SocketError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


def ask(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type", ""), response.read().decode()
    finally:
        connection.close()


def test_metrics_and_health() -> None:
    healthy = [True]
    with MetricsServer("127.0.0.1:0", render=lambda: "a 1\n", healthy=lambda: healthy[0]) as server:
        status, kind, text = ask(server.port, "/metrics")
        assert (status, text) == (200, "a 1\n")
        assert kind.startswith("text/plain; version=0.0.4")
        assert ask(server.port, "/healthz?x=1")[0] == 200
        assert ask(server.port, "/")[0] == 404
        healthy[0] = False
        assert ask(server.port, "/healthz")[0] == 503


def test_who_hangs_up_disturbs_nobody() -> None:
    with MetricsServer("127.0.0.1:0", render=lambda: "x" * 10**6, healthy=lambda: True) as server:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert len(ask(server.port, "/metrics")[2]) == 10**6


def test_a_unix_socket(folder: Path) -> None:
    place = folder / "m.sock"
    with (
        MetricsServer(f"unix:{place}", render=lambda: "a 1\n", healthy=lambda: True) as server,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        assert server.port == 0
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        connection.connect(str(place))
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        with connection.makefile("rb") as answer:
            assert answer.read().endswith(b"\r\n\r\na 1\n")
    assert not place.exists()


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0:1",
        "192.0.2.1:1",
        "localhost:1",
        "127.0.0.1",
        "127.0.0.1:x",
        ":1",
        "[::]:1",
        "127.0.0.1:65536",
    ],
)
def test_this_machine_only(address: str) -> None:
    with pytest.raises(SettingsError):
        MetricsServer(address, render=str, healthy=lambda: True)


def test_an_address_that_is_taken() -> None:
    with (
        MetricsServer("127.0.0.1:0", render=str, healthy=lambda: True) as server,
        pytest.raises(SocketError),
    ):
        MetricsServer(f"127.0.0.1:{server.port}", render=str, healthy=lambda: True)
