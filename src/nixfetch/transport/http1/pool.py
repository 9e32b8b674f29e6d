"""Connections that are kept for the next request, and no more in use than are allowed.

Safe to share among threads. To wait for one's turn is no fault of the remote: it has no limit,
but that of the pool's life. One lock; no socket is waited for while it is held.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from nixfetch.transport.http1.connection import ClosedTransportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nixfetch.transport.base import Pace
    from nixfetch.transport.http1.connection import Connection
    from nixfetch.transport.http1.dial import Target

KEEPALIVE = 30.0  # seconds; below the idle limits of common servers and load balancers


class Pool:
    """The connections of one transport."""

    def __init__(
        self,
        *,
        most: int,
        dial: Callable[[Target, Pace], Connection],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open none yet.

        Args:
            most: connections at a time, kept ones too.
            dial: makes one.
            clock: seconds, to know by how long one was kept.
        """
        self._dial = dial
        self._most = most
        self._clock = clock
        self._changed = threading.Condition()
        self._turns = 0  # given, those that still dial too
        self._used: set[Connection] = set()
        self._idle: dict[Target, deque[Connection]] = {}
        self._closed = False

    def take(self, target: Target, pace: Pace, *, fresh: bool = False) -> Connection:
        """A connection for one request; give it back to `keep` or `drop`.

        Args:
            target: where to.
            pace: for making one.
            fresh: not one that was kept.

        Raises:
            ClosedTransportError: after `close`, also for those who wait.
            TransportError: it cannot be made.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._turns < self._most)
            self._turns += 1
        try:
            self._check_open()
            connection = None if fresh else self._kept(target)
            if connection is None:
                self._make_room()
                connection = self._dial(target, pace)
            self._use(connection)
        except BaseException:
            self._end_turn()
            raise
        return connection

    def keep(self, target: Target, connection: Connection) -> None:
        """Give a connection back that is good for another request."""
        connection.idle_since = self._clock()
        with self._changed:
            if connection not in self._used:
                return
            self._used.discard(connection)
            if kept := not self._closed:
                self._idle.setdefault(target, deque()).append(connection)
        self._end_turn()
        if not kept:
            connection.close()

    def drop(self, connection: Connection) -> None:
        """Give one back that is not."""
        with self._changed:
            if connection not in self._used:
                return
            self._used.discard(connection)
        self._end_turn()
        connection.close()

    def close(self) -> None:
        """Close the kept ones; threads that use one, or wait for one, get an error at once."""
        with self._changed:
            self._closed = True
            idle = [connection for each in self._idle.values() for connection in each]
            self._idle.clear()
            for connection in self._used:  # under the lock: until then none of them is closed
                connection.abort()
            self._changed.notify_all()
        for connection in idle:
            connection.close()

    def _use(self, connection: Connection) -> None:
        with self._changed:
            if not self._closed:
                self._used.add(connection)
                return
        connection.close()
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedTransportError("the transport was closed meanwhile")

    def _end_turn(self) -> None:
        with self._changed:
            self._turns -= 1
            self._changed.notify()

    def _kept(self, target: Target) -> Connection | None:
        while True:
            with self._changed:
                idle = self._idle.get(target)
                if not idle:
                    return None
                connection = idle.pop()  # the one used last is the likeliest to stand
            if self._clock() - connection.idle_since < KEEPALIVE and connection.is_alive():
                return connection
            connection.close()

    def _make_room(self) -> None:
        """Close kept connections, so that a new one is not one too many."""
        surplus: list[Connection] = []
        with self._changed:
            kept = [each for each in self._idle.values() if each]
            while kept and self._turns + sum(map(len, kept)) > self._most:
                surplus.append(kept[0].popleft())
                kept = [each for each in kept if each]
        for connection in surplus:
            connection.close()
