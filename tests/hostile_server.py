"""A server on loopback that does what no server should: raw sockets, and a function for each sin.

    with HostileServer(objects, {"*.narinfo": drip_body, "nar/*": first(1, cut(1000))}) as server:
        server.url            # "http://127.0.0.1:40000"
        server.requests       # what was asked, in order
        server.sent           # bytes of bodies by name, as far as the kernel took them

A sin is a `Behaviour`: a function of an `Exchange`, which has the request, what an honest server
would answer, and the socket. `sins` has them all. It is chosen by the name asked for: the first
pattern that fits (as `fnmatch`) counts; to what none fits the answer is honest: keep-alive, strong
ETags, Range and If-Range. What goes wrong before the first request is a `Greeting`, one for the
whole server. Threads are left to their sins until the client goes away, or the block is left.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import hashlib
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn, Self, TypeAlias
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from types import TracebackType

PIECE = 16 * 1024  # bytes of a body sent at a time
MAX_HEAD = 64 * 1024  # bytes of a request
DAY = 86_400  # seconds
NOTHING: Mapping[str, str] = MappingProxyType({})


class StoppedError(Exception):
    """The server's block was left while something waited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asked."""

    method: str
    name: str
    """The path, percent-decoded, without its leading slash and its query."""
    target: str
    """As it was sent."""
    headers: Mapping[str, str]
    """Names in lower case."""
    number: int
    """How many there were for this name, this one included."""


@dataclass(slots=True)
class Exchange:
    """A request, and the socket to answer it on."""

    server: HostileServer
    connection: socket.socket
    request: Request
    keep: bool = False
    """Whether the connection is good for another request: set by honest answers."""
    sent: int = 0
    """Bytes of the body so far."""

    @property
    def truth(self) -> bytes:
        """What the object is; nothing where there is none."""
        return self.server.objects.get(self.request.name, b"")

    def send(self, data: bytes) -> None:
        """Send something that is not body."""
        self.connection.sendall(data)

    def head(
        self, headers: Mapping[str, str] = NOTHING, *, status: int = 200, length: int | None = None
    ) -> None:
        """Send status line and fields; without a length the body ends with the connection."""
        ordinary = {} if length is None else {"Content-Length": str(length)}
        lines = [f"HTTP/1.1 {status} {_phrase(status)}"]
        lines += [f"{name}: {value}" for name, value in {**ordinary, **headers}.items()]
        self.send("".join(line + "\r\n" for line in [*lines, ""]).encode("latin-1"))

    def body(self, data: bytes) -> None:
        """Send a part of the body, piece by piece."""
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            self.connection.sendall(piece)
            self.sent += len(piece)
            self.server.count(self, len(piece))

    def answer(
        self, body: bytes, headers: Mapping[str, str] = NOTHING, *, status: int = 200
    ) -> None:
        """A whole answer, after which the connection is as good as before."""
        self.head(headers, status=status, length=len(body))
        if self.request.method != "HEAD":
            self.body(body)
        self.keep = True

    def pause(self, seconds: float) -> None:
        """Wait; not any longer than the server runs."""
        if self.server.stopping.wait(seconds):
            raise StoppedError

    def sleep(self) -> NoReturn:
        """Say nothing more, ever."""
        while True:
            self.pause(DAY)

    def reset(self) -> None:
        """Close the connection by a TCP reset."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()


Behaviour: TypeAlias = Callable[[Exchange], None]
Greeting: TypeAlias = Callable[["HostileServer", socket.socket], socket.socket]


class HostileServer:
    """Serves until its block is left; see the module's docstring.

    Args:
        objects: what it has, by name.
        sins: how it answers, by pattern.
        greeting: what it does with a new connection.
        scheme: that its URL has, whatever it talks.
        host: the address to listen at.
    """

    def __init__(
        self,
        objects: Mapping[str, bytes],
        sins: Mapping[str, Behaviour] = MappingProxyType({}),
        *,
        greeting: Greeting | None = None,
        scheme: str = "http",
        host: str = "127.0.0.1",
    ) -> None:
        self.objects = objects
        self.sins = dict(sins)
        self.requests: list[Request] = []
        self.connections = 0
        """Accepted so far."""
        self.sinned = 0
        """Requests that were not answered honestly."""
        self.sent: Counter[str] = Counter()
        self.watch: Callable[[Exchange], None] = lambda _: None
        """Called after each piece of a body, by the thread that sends it."""
        self.stopping = threading.Event()
        self._greeting = greeting
        self._scheme = scheme
        self._listener = socket.create_server((host, 0), backlog=256)
        self._host = host
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._accepting = threading.Thread(target=self._accept)

    @property
    def port(self) -> int:
        number: int = self._listener.getsockname()[1]
        return number

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self._host}:{self.port}"

    def asked(self, pattern: str) -> int:
        """How many requests there were for names like `pattern`."""
        return sum(fnmatch.fnmatchcase(request.name, pattern) for request in self.requests)

    def count(self, exchange: Exchange, size: int) -> None:
        """Note that `size` bytes of a body were sent."""
        with self._lock:
            self.sent[exchange.request.name] += size
        self.watch(exchange)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError, StoppedError):
            if self._greeting is not None:
                connection = self._greeting(self, connection)
                with self._lock:
                    self._open.add(connection)
            unread = bytearray()
            while (request := self._request(connection, unread)) is not None:
                exchange = Exchange(self, connection, request)
                self._behave(exchange)
                if not exchange.keep:
                    break
        with self._lock:
            self._open.discard(connection)
        with contextlib.suppress(OSError):
            connection.close()

    def _behave(self, exchange: Exchange) -> None:
        for pattern, behaviour in self.sins.items():
            if fnmatch.fnmatchcase(exchange.request.name, pattern):
                with self._lock:
                    self.sinned += 1
                behaviour(exchange)
                return
        honest(exchange)

    def _request(self, connection: socket.socket, unread: bytearray) -> Request | None:
        while (end := unread.find(b"\r\n\r\n")) < 0:
            received = connection.recv(PIECE)
            unread += received
            if not received or len(unread) > MAX_HEAD:
                return None
        first, *lines = unread[:end].decode("latin-1").split("\r\n")
        del unread[: end + 4]
        method, _, rest = first.partition(" ")
        target = rest.rpartition(" ")[0]
        name = unquote(urlsplit(target if "://" in target else "//host" + target).path)[1:]
        fields = (line.partition(":") for line in lines)
        headers = {key.strip().lower(): value.strip() for key, _, value in fields}
        with self._lock:
            self._counts[name] += 1
            request = Request(
                method=method,
                name=name,
                target=target,
                headers=headers,
                number=self._counts[name],
            )
            self.requests.append(request)
        return request


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Odd"


# Honest.


@functools.lru_cache(maxsize=8)
def etag(data: bytes) -> str:
    """The strong ETag of an object."""
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def honest(exchange: Exchange) -> None:
    """What was asked for, or the part of it."""
    data = exchange.truth
    if exchange.request.name not in exchange.server.objects:
        exchange.answer(b"no such object\n", status=404)
        return
    tag = etag(data)
    headers = {"ETag": tag, "Accept-Ranges": "bytes"}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", exchange.request.headers.get("range", ""))
    if not asked or exchange.request.headers.get("if-range", tag) != tag:
        exchange.answer(data, headers)
        return
    start, stop = int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data))
    if start >= len(data):
        exchange.answer(b"", {"Content-Range": f"bytes */{len(data)}"}, status=416)
        return
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
    exchange.answer(data[start:stop], headers, status=206)


# Where a process stands with a connection of ours.


@dataclass(frozen=True, slots=True)
class Unread:
    """Bytes of ours that a client has not taken: see `unread`."""

    ours: int = field(default=0)
    theirs: int = field(default=0)

    @property
    def total(self) -> int:
        return self.ours + self.theirs


def unread(exchange: Exchange) -> Unread:
    """What was sent on this connection and lies in the kernel, on our side and on the client's.

    Source: linux, Documentation/networking/proc_net_tcp.rst.
    """
    ours, theirs = exchange.connection.getsockname(), exchange.connection.getpeername()
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    waiting = {(row[1], row[2]): row[4].split(":") for row in rows}
    here, there = _address(*ours), _address(*theirs)
    return Unread(
        int(waiting[here, there][0], 16) if (here, there) in waiting else 0,
        int(waiting[there, here][1], 16) if (there, here) in waiting else 0,
    )


def _address(host: str, port: int) -> str:
    number = int.from_bytes(socket.inet_aton(host), "little")
    return f"{number:08X}:{port:04X}"
