"""What caches do that they should not: behaviours of a `HostileServer`, and servers that are none.

What is called endless ends when the client goes away, or the server's block is left.
"""

from __future__ import annotations

import contextlib
import fnmatch
import gzip
import itertools
import lzma
import socket
import time
import zlib
from contextlib import contextmanager
from email.utils import formatdate
from typing import TYPE_CHECKING

import brotli
import zstandard

from hostile_server import NOTHING, PIECE, StoppedError, etag, honest

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping

    from hostile_server import Behaviour, Exchange, Greeting, HostileServer

DRIP = 0.25  # seconds between two bytes of what drips: no single wait is long
DAY = 86_400  # seconds
PORTAL = b"<!DOCTYPE html>\n<html><head><title>Guest network</title></head><body>Please log in."


def without_ranges(exchange: Exchange) -> None:
    """The whole object, whatever part was asked for."""
    exchange.answer(exchange.truth)


def first(count: int, behaviour: Behaviour, then: Behaviour = honest) -> Behaviour:
    """`behaviour` for the first requests of each name, then another."""

    def behave(exchange: Exchange) -> None:
        (behaviour if exchange.request.number <= count else then)(exchange)

    return behave


def saying(
    status: int, body: bytes = b"", headers: Mapping[str, str] = NOTHING, *, keep: bool = True
) -> Behaviour:
    """Always the same answer."""

    def behave(exchange: Exchange) -> None:
        exchange.answer(body, headers, status=status)
        exchange.keep = keep

    return behave


def another(pattern: str) -> Behaviour:
    """An object, but not the one that was asked for: the first whose name is like `pattern`."""

    def behave(exchange: Exchange) -> None:
        objects = exchange.server.objects
        asked = exchange.request.name
        exchange.answer(
            next(objects[name] for name in fnmatch.filter(objects, pattern) if name != asked)
        )

    return behave


# Slow, or silent.


def silent(exchange: Exchange) -> None:
    """No answer."""
    exchange.sleep()


def hang_up(_exchange: Exchange) -> None:
    """The connection ends instead of an answer."""


def drip_head(exchange: Exchange) -> None:
    """An honest answer's head, a byte at a time."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(exchange.truth)}\r\nX-Padding: "
    for byte in itertools.chain(head.encode(), itertools.repeat(ord("x"))):
        exchange.send(bytes([byte]))
        exchange.pause(DRIP)


def drip_body(exchange: Exchange) -> None:
    """An honest answer, its body a byte at a time."""
    exchange.head(length=len(exchange.truth))
    for byte in exchange.truth:
        exchange.body(bytes([byte]))
        exchange.pause(DRIP)


def stall_at(size: int) -> Behaviour:
    """An honest answer, up to a point; then nothing."""

    def behave(exchange: Exchange) -> None:
        exchange.head({"ETag": etag(exchange.truth)}, length=len(exchange.truth))
        exchange.body(exchange.truth[:size])
        exchange.sleep()

    return behave


# Broken off, or of another length than announced.


def cut(size: int) -> Behaviour:
    """The body breaks off; a negative size counts from the end."""

    def behave(exchange: Exchange) -> None:
        headers = {"ETag": etag(exchange.truth), "Accept-Ranges": "bytes"}
        exchange.head(headers, length=len(exchange.truth))
        exchange.body(exchange.truth[:size])

    return behave


def cut_length(size: int) -> Behaviour:
    """The same, by a server that does not say that it can do ranges."""

    def behave(exchange: Exchange) -> None:
        exchange.head(length=len(exchange.truth))
        exchange.body(exchange.truth[:size])

    return behave


def cut_in_silence(size: int) -> Behaviour:
    """The same, and nothing said how long it would be."""

    def behave(exchange: Exchange) -> None:
        exchange.head({"Connection": "close"})
        exchange.body(exchange.truth[:size])

    return behave


def reset_at(size: int) -> Behaviour:
    """A TCP reset within the body; 0: behind the head."""

    def behave(exchange: Exchange) -> None:
        exchange.head({"ETag": etag(exchange.truth)}, length=len(exchange.truth))
        exchange.body(exchange.truth[:size])
        exchange.pause(0.02)  # a reset takes back what the client has not read yet
        exchange.reset()

    return behave


def reset(exchange: Exchange) -> None:
    """A TCP reset instead of an answer."""
    exchange.reset()


def claiming_length(difference: int, *, hang: bool = False) -> Behaviour:
    """A Content-Length that is not the body's."""

    def behave(exchange: Exchange) -> None:
        exchange.head(length=len(exchange.truth) + difference)
        exchange.body(exchange.truth)
        if hang:
            exchange.sleep()
        exchange.keep = difference < 0  # what is too much stands in front of the next answer

    return behave


# Endless, or huge.


def endless(exchange: Exchange) -> None:
    """The object, and zeros behind it for ever, chunked."""
    exchange.head({"Transfer-Encoding": "chunked"})
    _chunk(exchange, exchange.truth)
    while True:
        _chunk(exchange, bytes(PIECE))


def huge(size: int, line: bytes = b"X-Filler: 0123456789abcdef\n") -> Behaviour:
    """The object with `size` bytes of more lines in front, honestly announced."""

    def behave(exchange: Exchange) -> None:
        lines = line * (PIECE // len(line))
        count = size // len(lines)
        exchange.head(length=count * len(lines) + len(exchange.truth))
        for _ in range(count):
            exchange.body(lines)
        exchange.body(exchange.truth)

    return behave


def huge_header(size: int) -> Behaviour:
    """An honest answer, with one field of that size."""

    def behave(exchange: Exchange) -> None:
        exchange.answer(exchange.truth, {"X-Huge": "x" * size})

    return behave


def endless_headers(exchange: Exchange) -> None:
    """Fields without end, quickly."""
    exchange.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        exchange.send(b"".join(b"X-%d: %d\r\n" % (number, number) for number in range(1000)))


def endless_hints(exchange: Exchange) -> None:
    """1xx answers without end, quickly."""
    while True:
        exchange.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 100)


def slow_hints(exchange: Exchange) -> None:
    """1xx answers without end, now and then one: enough bytes for any idle timer."""
    while True:
        exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        exchange.pause(DRIP)


def many_trailers(exchange: Exchange) -> None:
    """An honest chunked body, and fields behind it without end."""
    exchange.head({"Transfer-Encoding": "chunked"})
    _chunk(exchange, exchange.truth)
    exchange.send(b"0\r\n")
    while True:
        exchange.send(b"X-Trailer: x\r\n" * 1000)


def endless_chunk_extension(exchange: Exchange) -> None:
    """A chunk whose header never ends."""
    exchange.head({"Transfer-Encoding": "chunked"})
    exchange.send(b"10;")
    while True:
        exchange.send(b"x" * PIECE)


def _chunk(exchange: Exchange, data: bytes) -> None:
    exchange.send(b"%x\r\n" % len(data))
    exchange.body(data)
    exchange.send(b"\r\n")


# Not HTTP.


def garbage(exchange: Exchange) -> None:
    """Bytes that are no answer."""
    exchange.send(b"\x00\x01SSH-2.0-hello\r\n\r\n" * 10)


def bad_chunks(exchange: Exchange) -> None:
    """A chunked body whose chunk size is no number."""
    exchange.head({"Transfer-Encoding": "chunked"})
    exchange.send(b"zz\r\n" + exchange.truth)


def raw(head: str, body: bytes | None = None) -> Behaviour:
    """Bytes as they stand, then the object; the connection ends."""

    def behave(exchange: Exchange) -> None:
        exchange.send(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n")
        exchange.body(exchange.truth if body is None else body)

    return behave


# Encodings and bombs.


def encoded(encoding: str, compress: Callable[[bytes], bytes]) -> Behaviour:
    """The object under a Content-Encoding."""

    def behave(exchange: Exchange) -> None:
        exchange.answer(compress(exchange.truth), {"Content-Encoding": encoding})

    return behave


def bombed(encoding: str | None, data: bytes) -> Behaviour:
    """`data` as it is, under a Content-Encoding or under none."""
    return saying(200, data, {} if encoding is None else {"Content-Encoding": encoding})


def bomb(compression: str, *, size: int, lead: bytes = b"") -> bytes:
    """`lead`, then zeros, compressed: unfolds to more than `size` bytes.

    Made of equal parts, so that it costs little to make.
    """
    part = 16 * 1024 * 1024
    parts = size // part + 1
    match compression:
        case "gzip":
            flushing = zlib.compressobj(9, zlib.DEFLATED, -15)
            block = flushing.compress(bytes(part)) + flushing.flush(zlib.Z_FULL_FLUSH)
            opening = zlib.compressobj(9, zlib.DEFLATED, 31)
            head = opening.compress(lead) + opening.flush(zlib.Z_FULL_FLUSH)
            return head + block * parts
        case "xz":
            return lzma.compress(lead, preset=0) + lzma.compress(bytes(part), preset=0) * parts
        case "zstd":
            packing = zstandard.ZstdCompressor(level=1).compressobj()
            pieces = [
                packing.compress(lead),
                *(packing.compress(bytes(part)) for _ in range(parts)),
            ]
            return b"".join([*pieces, packing.flush()])
        case "br":
            packer = brotli.Compressor(quality=1)
            return b"".join(
                [packer.process(lead), *(packer.process(bytes(part)) for _ in range(parts))]
            ) + bytes(packer.finish())
        case _:
            raise ValueError(compression)


def gzipped(data: bytes) -> bytes:
    """`data` in gzip."""
    return gzip.compress(data, mtime=0)


# Ranges.


def interrupted(size: int, ranged: Behaviour) -> Behaviour:
    """The first answer breaks off; to who goes on by a range, `ranged`; honest without one."""

    def behave(exchange: Exchange) -> None:
        if "range" in exchange.request.headers:
            ranged(exchange)
        elif exchange.request.number == 1:
            cut(size)(exchange)
        else:
            honest(exchange)

    return behave


def range_refused(exchange: Exchange) -> None:
    """416, though the range is there."""
    exchange.answer(b"", {"Content-Range": "bytes */0"}, status=416)


def range_mislabelled(exchange: Exchange) -> None:
    """Bytes of the start of the object, and a Content-Range that says so."""
    data = exchange.truth[:1000]
    label = f"bytes 0-{len(data) - 1}/{len(exchange.truth)}"
    exchange.answer(data, {"Content-Range": label, "ETag": etag(exchange.truth)}, status=206)


def range_unlabelled(exchange: Exchange) -> None:
    """A part without a Content-Range."""
    exchange.answer(exchange.truth[1000:], {"ETag": etag(exchange.truth)}, status=206)


def range_shifted(exchange: Exchange) -> None:
    """The bytes beside the ones that were asked for, under the Content-Range of those."""
    data = exchange.truth
    start = int(exchange.request.headers["range"].removeprefix("bytes=").partition("-")[0])
    label = f"bytes {start}-{len(data) - 1}/{len(data)}"
    shifted = data[start - 1 : -1]
    exchange.answer(shifted, {"Content-Range": label, "ETag": etag(data)}, status=206)


# Redirects.


def redirect(location: str, status: int = 302) -> Behaviour:
    """Elsewhere; ``{name}`` in the location is the name that was asked for."""

    def behave(exchange: Exchange) -> None:
        target = location.format(name=exchange.request.name)
        exchange.answer(b"", {"Location": target}, status=status)

    return behave


def hops(count: int) -> Behaviour:
    """`count` redirects one after the other, the last one to the object. Use it for ``*``."""

    def behave(exchange: Exchange) -> None:
        done, slash, name = exchange.request.name.removeprefix("hop/").partition("/")
        if not exchange.request.name.startswith("hop/"):
            done, slash, name = "0", "/", exchange.request.name
        if int(done) < count:
            exchange.answer(b"", {"Location": f"/hop/{int(done) + 1}{slash}{name}"}, status=307)
        else:
            exchange.answer(exchange.server.objects[name])

    return behave


def captive_portal(exchange: Exchange) -> None:
    """A page to log in at, in the place of everything."""
    exchange.answer(PORTAL, {"Content-Type": "text/html"})


def retry_after_date(seconds: float, status: int = 429) -> Behaviour:
    """Too many requests; come again at a date, by a clock that the answer tells."""

    def behave(exchange: Exchange) -> None:
        now = time.time()
        headers = {
            "Date": formatdate(now, usegmt=True),
            "Retry-After": formatdate(now + seconds, usegmt=True),
        }
        exchange.answer(b"", headers, status=status)

    return behave


# Before the first request.


def tls(context: ssl.SSLContext) -> Greeting:
    """TLS, as it should be."""

    def greet(_server: HostileServer, connection: socket.socket) -> socket.socket:
        return context.wrap_socket(connection, server_side=True)

    return greet


def mute(server: HostileServer, connection: socket.socket) -> socket.socket:
    """Accept, and never say a word, nor read one."""
    server.stopping.wait()
    return connection


def slow_handshake(server: HostileServer, connection: socket.socket) -> socket.socket:
    """TLS up to the server's first record, which comes a byte at a time."""
    connection.recv(PIECE)
    hello = b"\x16\x03\x03\x3f\xff" + b"\x02\x00\x3f\xfb\x03\x03" + bytes(32) + b"\x00"
    for byte in itertools.chain(hello, itertools.repeat(0)):
        connection.sendall(bytes([byte]))
        if server.stopping.wait(DRIP):
            raise StoppedError
    return connection


def closing(_server: HostileServer, _connection: socket.socket) -> socket.socket:
    """Close at once."""
    raise OSError


# No server at all.


@contextmanager
def closed_port() -> Iterator[str]:
    """A URL at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@contextmanager
def unroutable() -> Iterator[str]:
    """A URL to which a connection never stands: it is not refused, it just hangs."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):  # one or two are enough; the kernel then drops what asks to connect
            client = stack.enter_context(socket.socket())
            client.settimeout(0)
            client.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
