from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from snapshotter.notify import inherited, notify

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


def test_systemd_is_told(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(folder / "notify"))
        systemd.settimeout(30)
        notify({"NOTIFY_SOCKET": str(folder / "notify")}, "READY=1")
        assert systemd.recv(100) == b"READY=1"


def test_an_abstract_socket() -> None:
    name = f"nixfetch-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}")
        systemd.settimeout(30)
        notify({"NOTIFY_SOCKET": f"@{name}"}, "STOPPING=1")
        assert systemd.recv(100) == b"STOPPING=1"


def test_nobody_listens(folder: Path) -> None:
    notify({}, "READY=1")
    notify({"NOTIFY_SOCKET": str(folder / "missing")}, "READY=1")
    notify({"NOTIFY_SOCKET": "vsock:1:2"}, "READY=1")


def test_nothing_was_inherited() -> None:
    assert inherited({}) is None
    assert inherited({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) is None


INHERIT = """
import os, sys
from snapshotter.errors import PreconditionError
from snapshotter.notify import inherited
os.dup2(int(sys.argv[2]), 3)
environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": sys.argv[1]}
try:
    print(inherited(environ).getsockname())
except PreconditionError as error:
    print(error.problem)
"""


def inherit(opened: socket.socket, count: str = "1") -> str:
    """What a process makes of `opened` as its descriptor 3."""
    done = subprocess.run(
        [sys.executable, "-c", INHERIT, count, str(opened.fileno())],
        pass_fds=[opened.fileno()],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_a_socket_that_listens(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(folder / "s"))
        assert "not a unix socket that listens" in inherit(opened)
        opened.listen()
        assert inherit(opened) == str(folder / "s")
        assert "one socket" in inherit(opened, "2")
    with socket.create_server(("127.0.0.1", 0)) as opened:
        assert "not a unix socket that listens" in inherit(opened)
