"""Connections that are kept for the next request, and no more in use than are allowed.

Safe to share among threads. To wait for one's turn is no fault of the remote: it has no limit.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from nixfetch.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nixfetch.transport.base import Pace
    from nixfetch.transport.http1.connection import Connection
    from nixfetch.transport.http1.dial import Target

KEEPALIVE = 30.0  # seconds; below the idle limits of common servers and load balancers


class ClosedTransportError(TransportError):
    """The transport was closed while somebody waited for it."""


class Pool:
    """The connections of one transport."""

    def __init__(self, *, most: int, dial: Callable[[Target, Pace], Connection]) -> None:
        """Open none yet.

        Args:
            most: connections in use at a time.
            dial: makes one.
        """
        self._dial = dial
        self._most = most
        self._turn = threading.Semaphore(most)
        self._lock = threading.Lock()
        self._idle: dict[Target, deque[Connection]] = {}
        self._used: set[Connection] = set()
        self._closed = False

    def take(self, target: Target, pace: Pace, *, fresh: bool = False) -> Connection:
        """A connection for one request; give it back to `keep` or `drop`.

        Args:
            target: where to.
            pace: for making one.
            fresh: not one that was kept.

        Raises:
            ClosedTransportError: after `close`.
            TransportError: it cannot be made.
        """
        self._turn.acquire()
        try:
            connection = None if fresh else self._kept(target)
            if connection is None:
                connection = self._dial(target, pace)
            self._use(connection)
        except BaseException:
            self._turn.release()
            raise
        return connection

    def _use(self, connection: Connection) -> None:
        with self._lock:
            if not self._closed:
                self._used.add(connection)
                return
        connection.close()
        raise ClosedTransportError("the transport was closed meanwhile")

    def keep(self, target: Target, connection: Connection) -> None:
        """Give a connection back that is good for another request."""
        connection.idle_since = time.monotonic()
        surplus: list[Connection] = []
        with self._lock:
            if connection not in self._used:
                return
            self._used.discard(connection)
            idle = self._idle.setdefault(target, deque())
            idle.append(connection)
            while sum(map(len, self._idle.values())) > self._most:
                surplus.append(next(each for each in self._idle.values() if each).popleft())
        self._turn.release()
        for each in surplus:
            each.close()

    def drop(self, connection: Connection) -> None:
        """Give one back that is not."""
        with self._lock:
            if connection not in self._used:
                return
            self._used.discard(connection)
        self._turn.release()
        connection.close()

    def close(self) -> None:
        """Close all; threads that read from one get an error at once."""
        with self._lock:
            self._closed = True
            idle = [connection for each in self._idle.values() for connection in each]
            self._idle.clear()
            used = list(self._used)
        for connection in [*idle, *used]:
            connection.close()

    def _kept(self, target: Target) -> Connection | None:
        while True:
            with self._lock:
                idle = self._idle.get(target)
                if self._closed or not idle:
                    return None
                connection = idle.pop()  # the one used last is the likeliest to stand
            if time.monotonic() - connection.idle_since < KEEPALIVE and connection.is_alive():
                return connection
            connection.close()
