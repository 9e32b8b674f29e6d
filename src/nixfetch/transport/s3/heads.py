"""Has botocore's connections measure how long the head of an answer takes, and bound its size.

urllib3 knows how long one read may take, and nothing of heads that come byte by byte, or never end.
"""

from __future__ import annotations

from http.client import HTTPResponse
from time import monotonic
from typing import TYPE_CHECKING, Any

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)

from nixfetch.transport.answers import BrokenAnswerError
from nixfetch.transport.waiting import Waiting

if TYPE_CHECKING:
    from io import BufferedReader

    from nixfetch.transport.base import Pace

MAX_HEAD = 256 * 1024  # bytes, with all the interim answers before it


def measure(session: Any, pace: Pace) -> None:
    """Have `session`, botocore's of HTTP, keep to `pace`."""

    class Response(HTTPResponse):
        def begin(self) -> None:
            opened: Any = self
            plain = opened.fp
            opened.fp = _Head(plain, pace)
            try:
                super().begin()
            finally:
                if opened.fp is not None:  # else it is closed: that was no HTTP
                    opened.fp = plain

    class Connection(AWSHTTPConnection):
        response_class: Any = Response

    class SecureConnection(AWSHTTPSConnection):
        response_class: Any = Response

    class Pool(AWSHTTPConnectionPool):
        ConnectionCls = Connection

    class SecurePool(AWSHTTPSConnectionPool):
        ConnectionCls = SecureConnection

    pools = {"http": Pool, "https": SecurePool}
    session._pool_classes_by_scheme = pools  # noqa: SLF001 - for proxies; no setting does it
    session._manager.pool_classes_by_scheme = pools  # noqa: SLF001 - the same


class _Head:
    """The lines of a head."""

    def __init__(self, file: BufferedReader, pace: Pace) -> None:
        self._file = file
        self._waiting = Waiting(pace)
        self._left = MAX_HEAD

    def readline(self, limit: int) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n") and len(line) < limit:
            began = monotonic()
            there = self._file.peek(1)  # reads once at most
            if not there and self._left == MAX_HEAD:
                break  # which http.client knows as a server that went away
            if not there:
                raise BrokenAnswerError("head of the answer ended early", retryable=True)
            end = there.find(b"\n") + 1 or len(there)
            piece = self._file.read(min(end, limit - len(line)))
            self._waiting.count(monotonic() - began, len(piece))
            self._left -= len(piece)
            if self._left < 0:
                raise BrokenAnswerError("head of the answer is too large", limit=MAX_HEAD)
            line += piece
        return bytes(line)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._file.close()
