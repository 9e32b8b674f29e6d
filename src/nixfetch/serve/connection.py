"""One connection: requests in, answers out, one after the other, until either side has enough.

What a client can make us wait for: `Patience` names every wait. No other thread writes to the
socket; any may shut it down, which ends the wait that is under way.
"""

from __future__ import annotations

import logging
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING

from nixfetch.errors import NixfetchError
from nixfetch.serve import answers
from nixfetch.serve.request import END, MAX_HEAD, Request, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nixfetch.serve.answers import Answer
    from nixfetch.serve.objects import Source

BLOCK = 256 * 1024  # bytes sent at a time
_RECEIVE = 16 * 1024  # bytes
_LINGER = 1.0  # seconds to wait for a refused client to read why
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for a client. Seconds."""

    idle: float = 30.0
    """For the first byte of a request."""
    head: float = 10.0
    """From there to the end of its head."""
    block: float = 60.0
    """Until `BLOCK` bytes are taken: whoever reads less than 4 KiB/s is cut off."""


class Connection:
    """Answers one client."""

    def __init__(
        self,
        connection: socket.socket,
        peer: str,
        *,
        source: Source,
        patience: Patience,
        idle: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """Use `connection`, which stays the caller's to close.

        Args:
            connection: connected, blocking.
            peer: what the log calls the client.
            source: what is served.
            patience: how long to wait.
            idle: is told when the wait for a next request begins, and when it ends.
        """
        self._socket = connection
        self._peer = peer
        self._source = source
        self._patience = patience
        self._idle = idle
        self._unread = b""
        self._begun = False  # whether any of the current answer was sent

    def serve(self) -> None:
        """Answer until the client goes, or is sent away. Raises nothing a client can cause."""
        try:
            while self._serve_one():
                pass
        except OSError as error:  # a time-out is one
            _log.debug("%s: %s", self._peer, error)

    def _serve_one(self) -> bool:
        """Answer one request; whether there may be another."""
        try:
            head = self._head()
            if head is None:
                return False
            request = Request.parse(head)
        except _HeadTooLargeError:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return False
        except RequestError as error:
            _log.info("%s: %s", self._peer, error)
            self._refuse(HTTPStatus.BAD_REQUEST)
            return False
        objection = _objection(request)
        if objection is not None:
            self._note(request, objection)
            self._refuse(objection, request)
            return False
        return self._answer(request)

    def _answer(self, request: Request) -> bool:
        self._begun = False
        try:
            with self._source.open(request.name) as found:
                answer = answers.of(found, request)
                self._note(request, answer.status)
                self._send(answer, request)
        except NixfetchError as error:
            _log.warning("%s: %s: %s", self._peer, request.target, error)
            # Where the answer has begun, closing tells: the client has less than was announced.
            if not self._begun:
                self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, request)
            return False
        return request.keep_alive

    def _send(self, answer: Answer, request: Request) -> None:
        head = answer.head(date=formatdate(usegmt=True), close=not request.keep_alive)
        body = answer.body if request.method != "HEAD" else iter(())
        self._socket.settimeout(self._patience.block)
        for block in _blocks(head, body):
            self._begun = True
            self._socket.sendall(block)

    def _refuse(self, status: HTTPStatus, request: Request | None = None) -> None:
        """Say why, and let it arrive: closing with bytes unread would reset the connection."""
        answer = answers.refusal(status)
        head = answer.head(date=formatdate(usegmt=True), close=True)
        body = answer.body if request is None or request.method != "HEAD" else ()
        self._socket.settimeout(_LINGER)
        self._socket.sendall(b"".join([head, *body]))
        deadline = time.monotonic() + _LINGER
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while time.monotonic() < deadline and self._socket.recv(_RECEIVE):
                pass

    def _head(self) -> bytes | None:
        """The next head, without the empty line at its end; None when the client has gone."""
        if not self._unread:
            self._idle(True)  # noqa: FBT003 - a callback's only argument
            self._socket.settimeout(self._patience.idle)
            self._unread = self._socket.recv(_RECEIVE)
            self._idle(False)  # noqa: FBT003 - the same
            if not self._unread:
                return None
        deadline = time.monotonic() + self._patience.head
        while END not in self._unread:
            if len(self._unread) > MAX_HEAD:
                raise _HeadTooLargeError
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("head took too long")
            self._socket.settimeout(left)
            data = self._socket.recv(_RECEIVE)
            if not data:
                return None
            self._unread += data
        head, _, self._unread = self._unread.partition(END)
        if len(head) > MAX_HEAD:
            raise _HeadTooLargeError
        return head

    def _note(self, request: Request, status: HTTPStatus) -> None:
        _log.info("%s %s %s %d", self._peer, request.method, request.target, status)


class _HeadTooLargeError(Exception):
    """The client sends more than a head may have."""


def _objection(request: Request) -> HTTPStatus | None:
    """Why not to answer `request`, if there is a reason."""
    if request.method not in answers.METHODS:
        return HTTPStatus.METHOD_NOT_ALLOWED
    return HTTPStatus.BAD_REQUEST if request.has_body else None


def _blocks(head: bytes, body: Iterator[bytes | memoryview]) -> Iterator[bytes | bytearray]:
    """Head and body in blocks of about `BLOCK` bytes: an archive comes in many small pieces."""
    block = bytearray(head)
    for piece in body:
        block += piece
        if len(block) >= BLOCK:
            yield block
            block = bytearray()
    if block:
        yield block
