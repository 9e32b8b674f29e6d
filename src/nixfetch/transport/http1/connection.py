"""One connection: a request goes out, an answer comes in, and the waiting is measured.

Only time in which we wait for the remote counts (`Pace`): a reader that is busy, or holds back
because the disk is slow, costs the remote nothing. A head that comes byte by byte, a body that
drips, and silence are the same: too few bytes for so much waiting.
"""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from nixfetch.errors import TransportError
from nixfetch.transport import causes
from nixfetch.transport.answers import BrokenAnswerError
from nixfetch.transport.base import Pace
from nixfetch.transport.http1.framing import UNTIL_CLOSE, body, framing
from nixfetch.transport.http1.head import MAX_HEAD, MAX_INTERIM, Head, end_of, not_http, parse
from nixfetch.transport.waiting import SlowRemoteError, Waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 256 * 1024  # bytes read at a time
_BEGINNING = b"HTTP/1."
_SWITCHING = 101


class StaleConnectionError(TransportError):
    """A kept connection was closed by the remote before it answered; nothing was lost."""


class Connection:
    """One socket that talks HTTP/1.1, in the hands of one thread at a time."""

    def __init__(self, stream: socket.socket) -> None:
        """Use `stream`, connected, which becomes this object's to close."""
        self._stream = stream
        self._held = b""  # received, and not yet asked for
        self._waiting = Waiting(Pace())
        self.requests = 0
        """How many were sent."""
        self.idle_since = 0.0
        """On the clock of `time.monotonic`, while it is kept."""

    def close(self) -> None:
        """Close it; a thread that reads from it gets an error at once."""
        with suppress(OSError):  # it may not be connected any more
            # Not SSLSocket's own, which takes the TLS state away from whoever is reading.
            socket.socket.shutdown(self._stream, socket.SHUT_RDWR)
        self._stream.close()

    def is_alive(self) -> bool:
        """Whether a kept connection still stands: a remote that says something has hung up."""
        if self._held:
            return False
        try:
            self._stream.settimeout(0.0)
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
            TransportError: too little came for so much waiting, or the connection broke.
        """
        self._waiting = Waiting(pace)
        self.requests += 1
        try:
            self._stream.settimeout(pace.stall)
            self._stream.sendall(request)
            self._more("remote hung up without an answer")
        except SlowRemoteError:
            raise
        except (TransportError, OSError) as error:
            if self.requests > 1:
                raise StaleConnectionError("kept connection was closed", retryable=True) from error
            if isinstance(error, OSError):
                raise _failure(error) from error
            raise
        for _ in range(MAX_INTERIM + 1):
            head = self._head()
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
        return body(self, length, piece=PIECE), head.keeps_open and length != UNTIL_CLOSE

    # What `framing` reads by.

    def some(self, most: int) -> bytes:
        """The next bytes, at least one and at most `most`; none when there are no more."""
        if self._held:
            data, self._held = self._held[:most], self._held[most:]
            return data
        return self._receive(most)

    def line(self, most: int) -> bytes:
        """The next line, without its end."""
        while (end := self._held.find(b"\n", 0, most)) < 0:
            if len(self._held) >= most:
                raise BrokenAnswerError("a line of the answer is too long", limit=most)
            self._more("body ended early")
        line, self._held = self._held[:end], self._held[end + 1 :]
        return line.removesuffix(b"\r")

    def _head(self) -> Head:
        looked = 0
        while (end := end_of(self._held, max(0, looked - 3))) < 0:
            looked = len(self._held)
            if not self._held.startswith(_BEGINNING[:looked]):
                raise not_http(self._held)
            if looked > MAX_HEAD:
                break
            self._more("remote hung up in the head of its answer")
        if not 0 <= end <= MAX_HEAD:
            raise BrokenAnswerError("head of the answer is too large", limit=MAX_HEAD)
        block, self._held = self._held[:end], self._held[end:]
        return parse(block)

    def _more(self, problem: str) -> None:
        data = self._receive(PIECE)
        if not data:
            raise TransportError(problem, retryable=True)
        self._held += data

    def _receive(self, most: int) -> bytes:
        """What comes next; nothing at the end. All waiting is here."""
        began = time.monotonic()
        try:
            if (left := self._waiting.left) is not None:
                self._stream.settimeout(left)
            data = self._stream.recv(most)
        except TimeoutError:
            raise self._waiting.too_long() from None
        except (OSError, ValueError) as error:  # ValueError: TLS, closed by another thread
            raise _failure(error) from error
        self._waiting.count(time.monotonic() - began, len(data))
        return data


def _failure(error: OSError | ValueError) -> TransportError:
    return TransportError("connection failed", retryable=True, reason=causes.reason(error))
