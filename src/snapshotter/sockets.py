"""The socket that containerd calls: who may reach it, and who had it before.

It has mode 0600, in a directory that only its owner may change. One that nobody answers at is a
left-over and goes; one that somebody answers at is another daemon, and an error. gRPC can only
listen on a socket that it makes itself: what comes in on one that systemd made is passed on.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from snapshotter.errors import PreconditionError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PIECE = 65_536  # bytes passed on at once

_PATIENCE = 1.0  # seconds; who listens on a unix socket is connected to at once
_log = logging.getLogger(__name__)


class SocketError(PreconditionError):
    """The socket cannot be had."""

    exit_code = 6


def claim(address: Path) -> None:
    """Make the directory of a socket, and room for it.

    Args:
        address: path of the socket.

    Raises:
        SocketError: others may change the directory, or another daemon listens there.
    """
    try:
        address.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_directory(address.parent)
        found = os.lstat(address)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _error("directory of the socket cannot be used", address, error) from error
    if not stat.S_ISSOCK(found.st_mode):
        raise SocketError("there is something else where the socket should be", file=address)
    if _answers(address):
        raise SocketError(
            "another daemon listens there",
            socket=address,
            hint="stop it, or choose another --address and --root",
        )
    _log.info("%s is left over from a daemon that is gone: removed", address)
    with suppress(FileNotFoundError):
        address.unlink()


def _check_directory(directory: Path) -> None:
    status = os.lstat(directory)
    if stat.S_ISLNK(status.st_mode):  # one on the way is its owner's business
        raise SocketError("directory of the socket is a symbolic link", directory=directory)
    if status.st_uid not in (os.geteuid(), 0):
        raise SocketError(
            "directory of the socket belongs to another user",
            directory=directory,
            uid=status.st_uid,
        )
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        raise SocketError(
            "others may write to the directory of the socket",
            directory=directory,
            mode=oct(stat.S_IMODE(status.st_mode)),
            hint="chmod 0700, or let us make one",
        )


def _answers(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PATIENCE)
        try:
            probe.connect(str(address))
        except OSError as error:
            return error.errno not in (errno.ECONNREFUSED, errno.ENOENT)
    return True


def _error(problem: str, address: Path, error: OSError) -> SocketError:
    return SocketError(problem, socket=address, reason=error.strerror)


@contextmanager
def private() -> Iterator[None]:
    """Sockets that are made in here have mode 0600. For a time with one thread."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def passing_name(address: Path) -> Path:
    """What a socket is called until somebody listens there; one byte longer, beside it."""
    return address.with_name(f".{address.name}")


def rename(passing: Path, address: Path) -> None:
    """Let a socket have its name.

    Args:
        passing: its passing one.
        address: as `claim` has made room for.

    Raises:
        SocketError: it cannot be had.
    """
    try:
        passing.rename(address)
    except OSError as error:
        raise _error("socket cannot be made", address, error) from error


class Relay:
    """Passes on what comes in on one socket to another."""

    def __init__(self, outer: socket.socket, inner: Path) -> None:
        """Begin.

        Args:
            outer: listens; it stays its owner's.
            inner: path of the socket that answers.
        """
        self._outer, self._inner = outer, str(inner)
        self._closing = False
        self._thread = threading.Thread(target=self._accept, name="relay", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more connections: they wait for whoever listens next."""
        # A close would not wake the thread; and a shutdown would end the socket for systemd too.
        self._closing = True
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as waker, suppress(OSError):
            waker.connect(self._outer.getsockname())
        self._thread.join(_PATIENCE)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._outer.accept()
            except OSError as error:
                if self._closing:
                    return
                _log.warning("a connection was lost: %s", error)
                continue
            if self._closing:
                connection.close()
                return
            self._connect(connection)

    def _connect(self, connection: socket.socket) -> None:
        onward = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            onward.connect(self._inner)
        except OSError as error:
            _log.warning("a connection was lost: %s", error)
            connection.close()
            onward.close()
            return
        threading.Thread(target=_both_ways, args=(connection, onward), daemon=True).start()


def _both_ways(one: socket.socket, other: socket.socket) -> None:
    with one, other:
        back = threading.Thread(target=_pass_on, args=(other, one), daemon=True)
        back.start()
        _pass_on(one, other)
        back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    """All that `source` says, to `target`; then its end."""
    buffer = memoryview(bytearray(PIECE))
    with suppress(OSError):
        while size := source.recv_into(buffer):
            target.sendall(buffer[:size])
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
