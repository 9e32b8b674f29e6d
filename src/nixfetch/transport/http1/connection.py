"""One connection: a request goes out, an answer comes in, and the waiting is measured.

Only time in which we wait for the remote counts (`Pace`): a reader that is busy, or holds back
because the disk is slow, costs the remote nothing. A head that comes byte by byte, a body that
drips, TLS records that never get whole, and silence are the same: too few bytes for so much
waiting. The socket never blocks; all waiting is in `_wait`.

A connection is in the hands of one thread, which closes it. Another may `abort` it: that shuts
the socket down, so that a waiting thread wakes up at once, and does not close it: the number of a
closed descriptor is the next file's, and the thread that was about to read would read from that.
"""

from __future__ import annotations

import math
import select
import socket
import ssl
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from nixfetch.errors import TransportError
from nixfetch.transport import causes
from nixfetch.transport.answers import BrokenAnswerError
from nixfetch.transport.base import AuthenticationError, Pace
from nixfetch.transport.http1.framing import UNTIL_CLOSE, ambiguous, body, framing
from nixfetch.transport.http1.head import MAX_HEAD, MAX_INTERIM, Head, end_of, not_http, parse
from nixfetch.transport.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_Outcome = TypeVar("_Outcome")

PIECE = 256 * 1024  # bytes of a body read at a time
RECORD = 16 * 1024  # bytes: the most that a TLS record holds, and more than most heads have
LOOK = 0.25  # seconds that one waits at a time: whoever waits may have to give up
_BEGINNING = b"HTTP/1."
_SWITCHING = 101


class StaleConnectionError(TransportError):
    """A kept connection was closed by the remote before it answered; nothing was lost."""


class ClosedTransportError(TransportError):
    """The transport was closed while somebody used it."""


class Connection:
    """One socket that talks HTTP/1.1, in the hands of one thread at a time."""

    def __init__(self, stream: socket.socket) -> None:
        """Use `stream`, connected, which becomes this object's to close."""
        stream.setblocking(False)  # noqa: FBT003 - socket's own
        self._stream = stream
        self._most = RECORD if isinstance(stream, ssl.SSLSocket) else PIECE
        self._poll = select.poll()
        self._poll.register(stream, select.POLLIN)
        self._held = b""  # received; asked for up to `_at`
        self._at = 0
        self._waiting = Waiting(Pace())
        self._aborted = False
        self.requests = 0
        """How many were sent."""
        self.idle_since = 0.0
        """On the clock of `time.monotonic`, while it is kept."""

    def close(self) -> None:
        """Close it; for the thread that has it."""
        self._stream.close()

    def abort(self) -> None:
        """Make whoever waits for it, and whoever reads on, fail at once; for other threads."""
        self._aborted = True
        with suppress(OSError):  # it may not be connected any more
            # Not SSLSocket's own, which takes the TLS state away from whoever is reading.
            socket.socket.shutdown(self._stream, socket.SHUT_RDWR)

    def is_alive(self) -> bool:
        """Whether a kept connection still stands: a remote that says something has hung up."""
        if self.buffered:
            return False
        try:
            self._stream.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except (OSError, ValueError):
            return False
        return False

    def ask(self, request: bytes, pace: Pace) -> Head:
        """Send a request and take the head of its answer.

        Raises:
            StaleConnectionError: a kept connection was closed before a byte of the answer came.
            BrokenAnswerError: what came is no answer.
            ClosedTransportError: it was aborted.
            TransportError: too little came for so much waiting, or the connection broke.
        """
        self._waiting = Waiting(pace)
        self.requests += 1
        try:
            with suppress(_BrokenConnectionError):  # it may have said why before it hung up
                self._send(request)
            self._waiting.count(self._wait(select.POLLIN, 0.0), 0)
            self._more("remote hung up without an answer", RECORD)
        except _BrokenConnectionError as error:
            if self.requests > 1:
                raise StaleConnectionError("kept connection was closed", retryable=True) from error
            raise
        left = MAX_HEAD
        for _ in range(MAX_INTERIM + 1):
            head, size = self._head(left)
            left -= size
            if head.status >= 200:  # noqa: PLR2004 - below are interim answers
                return head
            if head.status == _SWITCHING:
                raise BrokenAnswerError("remote switches to another protocol")
        raise BrokenAnswerError("too many interim answers", limit=MAX_INTERIM)

    def body(self, head: Head) -> tuple[Iterator[bytes], bool]:
        """The body behind `head`; and whether the connection can be used again after it.

        Raises:
            BrokenAnswerError: the head contradicts itself.
            TransportError: while the body is read.
        """
        length = framing(head)
        reusable = head.keeps_open and length != UNTIL_CLOSE and not ambiguous(head)
        return body(self, length, piece=PIECE), reusable

    def hurry(self, seconds: float) -> None:
        """Wait no longer than that for all the rest of the answer."""
        self._waiting = Waiting(Pace(stall=seconds, slowest=PIECE))

    # What `framing` reads by.

    @property
    def buffered(self) -> int:
        """Bytes that can be had without waiting."""
        return len(self._held) - self._at

    def some(self, most: int) -> bytes:
        """The next bytes, at least one and at most `most`; none when there are no more."""
        if not self._held:
            return self._receive(min(most, self._most))
        data = self._held[self._at : self._at + most]
        self._take(len(data))
        return data

    def line(self, most: int) -> bytes:
        """The next line, without its end."""
        while (end := self._held.find(b"\n", self._at, self._at + most)) < 0:
            if self.buffered >= most:
                raise BrokenAnswerError("a line of the answer is too long", limit=most)
            self._more("body ended early", self._most)
        line = self._held[self._at : end]
        self._take(len(line) + 1)
        return line.removesuffix(b"\r")

    def _take(self, size: int) -> None:
        self._at += size
        if self._at == len(self._held):
            self._held, self._at = b"", 0

    def _head(self, most: int) -> tuple[Head, int]:
        """The next head, which has no more than `most` bytes, and how many it has."""
        looked = 0
        self._held, self._at = self._held[self._at :], 0
        while (end := end_of(self._held, max(0, looked - 3))) < 0:
            looked = len(self._held)
            if not self._held.startswith(_BEGINNING[:looked]):
                raise not_http(self._held)
            if looked > most:
                break
            self._more("remote hung up in the head of its answer", RECORD)
        if not 0 <= end <= most:
            raise BrokenAnswerError("head of the answer is too large", limit=MAX_HEAD)
        block = self._held[:end]
        self._take(end)
        return parse(block), end

    def _more(self, problem: str, most: int) -> None:
        data = self._receive(most)
        if not data:
            raise _BrokenConnectionError(problem, retryable=True)
        self._held, self._at = self._held[self._at :] + data, 0

    def _send(self, data: bytes) -> None:
        while data:
            sent, waited = self._through(lambda: self._stream.send(data), select.POLLOUT)  # noqa: B023 - called at once
            self._waiting.count(waited, 0)
            data = data[sent:]

    def _receive(self, most: int) -> bytes:
        """What comes next; nothing at the end."""
        data, waited = self._through(lambda: self._stream.recv(most), select.POLLIN)
        if self._aborted:  # which looks like an end, and a body may have no other
            raise _closed()
        self._waiting.count(waited, len(data))
        return data

    def _through(self, step: Callable[[], _Outcome], blocked: int) -> tuple[_Outcome, float]:
        """What `step` gives as soon as the socket lets it, and the seconds waited for that.

        Args:
            step: send or receive.
            blocked: what to poll for when a plain socket is not ready; TLS says it itself.
        """
        waited = 0.0
        while True:
            try:
                return step(), waited
            except ssl.SSLWantReadError:
                events = select.POLLIN
            except ssl.SSLWantWriteError:
                events = select.POLLOUT
            except BlockingIOError:
                events = blocked
            except (OSError, ValueError) as error:
                raise self._failure(error) from error
            waited += self._wait(events, waited)

    def _wait(self, events: int, waited: float) -> float:
        """Wait until the socket is ready, or for `LOOK`, and say for how many seconds.

        Args:
            events: for what.
            waited: seconds that `_waiting` has not been told of.

        Raises:
            SlowRemoteError: there was no time left.
            What `Pace.pausing` raises.
        """
        left = self._waiting.left
        if left is not None and (left := left - waited) <= 0:
            raise self._waiting.too_long()
        began = time.monotonic()
        self._poll.modify(self._stream, events)
        if not self._poll.poll(math.ceil(min(LOOK, math.inf if left is None else left) * 1000)):
            self._waiting.pause()
        return time.monotonic() - began

    def _failure(self, error: OSError | ValueError) -> TransportError:
        if self._aborted:
            return _closed()
        reason = causes.reason(error)
        if causes.is_our_certificate(error):
            hint = causes.OUR_CERTIFICATE_HINT
            return AuthenticationError("remote wants another certificate", reason=reason, hint=hint)
        return _BrokenConnectionError("connection failed", retryable=True, reason=reason)


class _BrokenConnectionError(TransportError):
    """The connection is gone."""


def _closed() -> ClosedTransportError:
    return ClosedTransportError("the transport was closed meanwhile")
