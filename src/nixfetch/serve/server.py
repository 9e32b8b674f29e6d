"""A listening socket and its connections: a thread each, and never more than so many.

The thread in `serve_forever` accepts, the others answer. Whoever comes when all places are taken
waits in the backlog until one is free; the connection that has been idle for longest makes room.
`_lock` guards the table of connections, and nothing is waited for while it is held.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from nixfetch.errors import StoreError
from nixfetch.serve.address import Address
from nixfetch.serve.connection import Connection, Patience

if TYPE_CHECKING:
    from types import TracebackType

    from nixfetch.serve.objects import Source

_BACKLOG = 128  # connections that the kernel keeps for us
_FAREWELL = 5.0  # seconds that `close` waits for threads; they only have a block to read
_BREATH = 0.2  # seconds between two tries to make room
_log = logging.getLogger(__name__)


class ListenError(StoreError):
    """The operating system does not let us listen there."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may cost us."""

    connections: int = 64
    patience: Patience = field(default_factory=Patience)


def make_server(source: Source, address: Address, *, limits: Limits | None = None) -> Server:
    """Listen at `address`, ready to serve `source`.

    Raises:
        ListenError: the port is taken or not allowed, or there is no such host.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        listener = socket.create_server(tuple(address), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = (error.strerror or "unknown").lower()
        place = f"{address.host}:{address.port}"
        raise ListenError(
            "cannot listen", hint=_hint(error), address=place, reason=reason
        ) from error
    return Server(listener, source, limits or Limits())


class Server:
    """Listens, from the start. Close it, or leave its ``with`` block."""

    def __init__(self, listener: socket.socket, source: Source, limits: Limits) -> None:
        self._listener = listener
        self._listener.settimeout(0)
        self._source = source
        self._limits = limits
        self._places = threading.Semaphore(limits.connections)
        self._lock = threading.Lock()
        self._idle_since: dict[socket.socket, float | None] = {}  # None: at work
        self._threads: set[threading.Thread] = set()
        self._stopping = threading.Event()
        self._wake, self._woken = socket.socketpair()
        self.address = Address(*listener.getsockname()[:2])
        """Where it listens, with the port that port 0 became."""

    @property
    def url(self) -> str:
        """What a client on this machine calls it."""
        return self.address.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def serve_forever(self) -> None:
        """Accept and answer until `shutdown` is called, or this thread is interrupted."""
        while not self._stopping.is_set():
            ready, _, _ = select.select([self._listener, self._woken], [], [])
            if self._listener in ready and self._take_place():
                self._accept()

    def shutdown(self) -> None:
        """Let `serve_forever` return, and cut all connections off. Any thread may call it."""
        self._stopping.set()
        with suppress(OSError):  # closed already
            self._wake.send(b"\0")
        with self._lock:
            for connection in self._idle_since:
                _cut(connection)

    def close(self) -> None:
        """Shut down, wait for the threads, and let go of the port."""
        self.shutdown()
        deadline = time.monotonic() + _FAREWELL
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._listener.close()
        self._wake.close()
        self._woken.close()

    def _take_place(self) -> bool:
        """Wait for a place among the connections; False when the server stops meanwhile."""
        while not self._stopping.is_set():
            if self._places.acquire(blocking=False):
                return True
            self._make_room()
            if self._places.acquire(timeout=_BREATH):
                return True
        return False

    def _make_room(self) -> None:
        """Cut off the connection that has been idle for longest."""
        with self._lock:
            idle = [(since, key) for key, since in self._idle_since.items() if since is not None]
            if idle:
                _cut(min(idle, key=lambda entry: entry[0])[1])

    def _accept(self) -> None:
        try:
            connection, peer = self._listener.accept()
        except OSError as error:
            self._places.release()
            # The client may be gone again, which is nothing; else somebody has to free something.
            if error.errno not in {errno.ECONNABORTED, errno.EAGAIN}:
                _log.warning("cannot accept a connection: %s", error.strerror)
                self._stopping.wait(_BREATH)
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        name = Address(*peer[:2]).url.removeprefix("http://")
        thread = threading.Thread(target=self._serve, args=(connection, name), daemon=True)
        with self._lock:
            self._idle_since[connection] = None
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as error:  # the operating system has no more threads for us
            _log.warning("cannot serve a connection: %s", error)
            self._forget(connection, thread)

    def _serve(self, connection: socket.socket, peer: str) -> None:
        def idle(begins: bool) -> None:
            with self._lock:
                self._idle_since[connection] = time.monotonic() if begins else None
                if self._stopping.is_set():
                    _cut(connection)

        patience = self._limits.patience
        try:
            Connection(connection, peer, source=self._source, patience=patience, idle=idle).serve()
        finally:
            self._forget(connection, threading.current_thread())

    def _forget(self, connection: socket.socket, thread: threading.Thread) -> None:
        with self._lock:
            del self._idle_since[connection]
            self._threads.discard(thread)
        connection.close()
        self._places.release()


def _cut(connection: socket.socket) -> None:
    """End whatever is waited for on `connection`; closing it is its own thread's."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _hint(error: OSError) -> str | None:
    match error.errno:
        case errno.EADDRINUSE:
            return "another server has this port: choose one with --listen HOST:PORT"
        case errno.EACCES:
            return "ports below 1024 are for root: choose one with --listen HOST:PORT"
        case _:
            return None
