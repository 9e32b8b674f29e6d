"""Our daemon in a process of its own, as a service manager runs it.

    with daemon(folder, containerd=host.socket, caches=[url], keys=[key]) as nix:
        nix.crash(); nix.up()

Knows its command line; knows no containerd.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from snapshotter.containerd import Containerd
from snapshotter.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

COMMAND = (sys.executable, "-m", "snapshotter.cli")
# As systemd hands a socket over: as descriptor 3, to this very process.
_ACTIVATE = """\
import os, sys
os.dup2(int(sys.argv[1]), 3)
environ = {**os.environ, "LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execve(sys.executable, [sys.executable, *sys.argv[2:]], environ)
"""
_PASSED = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
PATIENCE = 60.0  # seconds to begin or end; both take less than one on a quiet machine


@dataclass(slots=True)
class Daemon:
    """One daemon, with all that is its own below a folder."""

    folder: Path
    arguments: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)
    listening: socket.socket | None = None
    """Its socket, where a service manager holds it: nobody is refused while it restarts."""
    _process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> Path:
        return address(self.folder)

    @property
    def root(self) -> Path:
        return root(self.folder)

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def log(self) -> str:
        """What it wrote so far."""
        return (self.folder / "daemon.log").read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def up(self) -> float:
        """Start it, and wait until it serves; gives the seconds that this took."""
        assert self._process is None
        begun = time.monotonic()
        places = {"--root": self.root, "--address": self.address, "--store": self.store}
        flags = [word for flag, place in places.items() for word in (flag, str(place))]
        with (self.folder / "daemon.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command(), "serve", *flags, *self.arguments],
                env={**_PASSED, "HOME": str(self.folder), **self.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=() if self.listening is None else (self.listening.fileno(),),
            )
        while not self._serves():
            if self._process.poll() is not None or time.monotonic() > begun + PATIENCE:
                pytest.fail(f"the daemon does not serve\n{self.log[-4000:]}")
            time.sleep(0.01)
        return time.monotonic() - begun

    def down(self) -> None:
        """End it, as a service manager does."""
        assert self._end(signal.SIGTERM) == 0, self.log[-4000:]

    def crash(self) -> None:
        """End it in whatever it is doing."""
        self._end(signal.SIGKILL)

    def is_up(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def _command(self) -> tuple[str, ...]:
        if self.listening is None:
            return COMMAND
        return (sys.executable, "-c", _ACTIVATE, str(self.listening.fileno()), *COMMAND[1:])

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        code = self._process.wait(PATIENCE)
        self._process = None
        return code

    def _serves(self) -> bool:
        with suppress(UnavailableError), Containerd(self.address, timeout=1.0) as client:
            return client.is_serving()
        return False


def address(folder: Path) -> Path:
    """The socket of the daemon of `folder`."""
    return folder / "snapshotter.sock"


def root(folder: Path) -> Path:
    """Where the daemon of `folder` keeps snapshots."""
    return folder / "snapshots"


@contextmanager
def daemon(
    folder: Path,
    *,
    containerd: Path | None = None,
    caches: Sequence[str] = (),
    keys: Sequence[str] = (),
    settings: str = "",
    environ: Mapping[str, str] | None = None,
    activated: bool = False,
) -> Iterator[Daemon]:
    """A daemon that serves.

    Args:
        folder: for all that is its own; containerd has to see it under the same name.
        containerd: its socket, to be asked for its version.
        caches: to fetch from.
        keys: to trust.
        settings: more lines of its file of settings.
        environ: more of its environment.
        activated: whether its socket is made by somebody else, as systemd does, and stays.
    """
    file = folder / "snapshotter.toml"
    file.write_text(f'containerd-address = "{containerd or ""}"\n{settings}\n')
    flags = ["--config", str(file)]
    flags += [word for cache in caches for word in ("--from", cache)]
    flags += [word for key in keys for word in ("--trusted-key", key)]
    found = Daemon(folder, tuple(flags), dict(environ or {}))
    with ExitStack() as stack:
        if activated:
            found.listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            found.listening.bind(str(found.address))
            found.listening.listen()
        stack.callback(lambda: found.crash() if found.is_up() else None)
        found.up()
        yield found
        if found.is_up():
            found.down()
