from __future__ import annotations

import os
import socket
import stat
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from snapshotter.sockets import Relay, SocketError, claim, passing_name, private, rename

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: a socket's path has 107 bytes."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


def listening(place: Path) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX)
    opened.bind(str(place))
    opened.listen()
    return opened


def test_the_directory_is_made_for_its_owner_alone(folder: Path) -> None:
    claim(folder / "a/b/s.sock")
    assert stat.S_IMODE((folder / "a/b").stat().st_mode) == 0o700
    claim(folder / "a/b/s.sock")


def test_a_socket_that_nobody_answers_at_goes(folder: Path) -> None:
    listening(folder / "s").close()
    claim(folder / "s")
    assert not (folder / "s").exists()


def test_a_socket_that_somebody_answers_at_stays(folder: Path) -> None:
    with listening(folder / "s"), pytest.raises(SocketError, match="another daemon"):
        claim(folder / "s")
    assert (folder / "s").exists()


def test_what_is_no_socket_stays(folder: Path) -> None:
    (folder / "s").write_text("mine")
    with pytest.raises(SocketError, match="something else"):
        claim(folder / "s")
    (folder / "link").symlink_to(folder / "nowhere")
    with pytest.raises(SocketError, match="something else"):
        claim(folder / "link")


def test_a_directory_that_others_can_change(folder: Path) -> None:
    place = folder / "open"
    place.mkdir()
    place.chmod(0o777)
    with pytest.raises(SocketError, match="others may write"):
        claim(place / "s")
    place.chmod(0o1777)
    claim(place / "s")  # as /tmp is


def test_a_directory_that_is_a_link(folder: Path) -> None:
    (folder / "real").mkdir(mode=0o700)
    (folder / "link").symlink_to(folder / "real")
    with pytest.raises(SocketError, match="link"):
        claim(folder / "link/s")


@pytest.mark.skipif(os.geteuid() != 0, reason="root may give files away")
def test_a_directory_of_another_user(folder: Path) -> None:
    place = folder / "other"
    place.mkdir(mode=0o700)
    os.chown(place, 1000, 1000)
    with pytest.raises(SocketError, match="another user"):
        claim(place / "s")


def test_private_sockets(folder: Path) -> None:
    before = os.umask(0o022)
    os.umask(before)
    with private():
        listening(folder / "s").close()
    assert stat.S_IMODE((folder / "s").stat().st_mode) == 0o600
    assert os.umask(before) == before


def test_a_socket_gets_its_name_when_it_listens(folder: Path) -> None:
    address = folder / "s.sock"
    passing = passing_name(address)
    with listening(passing), socket.socket(socket.AF_UNIX) as client:
        rename(passing, address)
        client.connect(str(address))
        assert [entry.name for entry in folder.iterdir()] == ["s.sock"]
    with pytest.raises(SocketError):
        rename(passing, address)


def echo(server: socket.socket) -> None:
    """Say back what the next client says, until it stops; then ``bye``."""
    connection, _ = server.accept()
    with connection:
        while data := connection.recv(1000):
            connection.sendall(data)
        connection.sendall(b"bye")


def test_what_comes_in_is_passed_on(folder: Path) -> None:
    with listening(folder / "outer") as outer, listening(folder / "inner") as inner:
        relay = Relay(outer, folder / "inner")
        for _ in range(2):
            thread = threading.Thread(target=echo, args=[inner])
            thread.start()
            with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as answer:
                client.settimeout(30)
                client.connect(str(folder / "outer"))
                client.sendall(b"x" * 200_000)
                client.shutdown(socket.SHUT_WR)
                assert answer.read() == b"x" * 200_000 + b"bye"
            thread.join()
        relay.close()
        # It listens still, for whoever comes next.
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(folder / "outer"))
            outer.settimeout(30)
            outer.accept()[0].close()


def test_a_connection_that_nobody_answers_ends(folder: Path) -> None:
    with listening(folder / "outer") as outer:
        relay = Relay(outer, folder / "missing")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(str(folder / "outer"))
            assert client.recv(1) == b""
        relay.close()
