"""From a name to a connected socket, before a deadline. Knows nothing of HTTP and TLS.

Addresses are tried in the system's order, the families taking turns; the next one after a failure,
or when those before it have had `HEAD_START`. The first to answer wins. Source: RFC 8305, of
which this is the smallest part that helps against an address that leads nowhere.
"""

from __future__ import annotations

import itertools
import math
import os
import select
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from nixfetch.errors import TransportError
from nixfetch.transport import causes
from nixfetch.transport.deadline import in_time

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nixfetch.transport.deadline import Deadline

    Address = tuple[Any, ...]
    """Family, kind, protocol, canonical name, address: as `socket.getaddrinfo` gives them."""
    Lookup = Callable[[str, int], Sequence[Address]]

HEAD_START = 0.25  # seconds
MAX_ADDRESSES = 16  # of one name; who has more has them for balance, not for need
_LONGEST = 3600.0  # seconds; poll() takes milliseconds in an int


def lookup(host: str, port: int) -> Sequence[Address]:
    """Ask the system."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def connected(
    host: str, port: int, deadline: Deadline, *, lookup: Lookup = lookup
) -> socket.socket:
    """A socket connected to one of the addresses of `host`; it does not block.

    Raises:
        TransportError: retryable: there is no such name, nobody answers, or not in time.
    """
    with _Race(_ordered(_addresses(host, port, deadline, lookup)), deadline) as race:
        return race.winner()


def _addresses(host: str, port: int, deadline: Deadline, lookup: Lookup) -> Sequence[Address]:
    try:
        return socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        )
    except (OSError, UnicodeError):
        pass  # a name, then
    try:
        return in_time(partial(lookup, host, port), deadline)
    except (OSError, UnicodeError) as error:
        raise _failed(error) from error


def _ordered(addresses: Sequence[Address]) -> list[Address]:
    """The first of each family, the second of each, …; families in the order they appear."""
    families: dict[object, list[Address]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    turns = itertools.zip_longest(*families.values())
    ordered = [address for turn in turns for address in turn if address is not None]
    return ordered[:MAX_ADDRESSES]


class _Race:
    """Several addresses at once; leaving it closes all sockets but the winner's."""

    def __init__(self, addresses: list[Address], deadline: Deadline) -> None:
        self._addresses = addresses
        self._deadline = deadline
        self._trying: dict[int, socket.socket] = {}
        self._poll = select.poll()
        self._failure: TransportError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._trying.values():
            stream.close()

    def winner(self) -> socket.socket:
        while self._addresses or self._trying:
            if self._addresses:
                self._try(*self._addresses.pop(0))
            if (stream := self._next()) is not None:
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return stream
        raise self._failure or TransportError(
            "cannot connect", retryable=True, reason="the name has no address"
        )

    def _try(self, family: int, kind: int, protocol: int, _: str, address: Any) -> None:
        try:
            stream = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        except OSError as error:  # no such family here, or no more descriptors
            self._failure = _failed(error)
            return
        self._trying[stream.fileno()] = stream
        try:
            stream.connect(address)
        except BlockingIOError:
            pass
        except OSError as error:  # no route, for one
            del self._trying[stream.fileno()]
            stream.close()
            self._failure = _failed(error)
            return
        self._poll.register(stream, select.POLLOUT)

    def _next(self) -> socket.socket | None:
        """The first that is through; none when it is time to try another address."""
        while self._trying:
            left = self._deadline.left
            patience = _LONGEST if left is None else min(left, _LONGEST)
            patience = min(patience, HEAD_START) if self._addresses else patience
            ready = self._poll.poll(math.ceil(patience * 1000))
            for number, _ in ready:
                stream = self._trying.pop(number)
                self._poll.unregister(number)
                code = stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not code:
                    return stream
                stream.close()
                self._failure = _failed(OSError(code, os.strerror(code)))
            if self._addresses:
                return None
        return None


def _failed(error: OSError | UnicodeError) -> TransportError:
    return TransportError("cannot connect", retryable=True, reason=causes.reason(error))
