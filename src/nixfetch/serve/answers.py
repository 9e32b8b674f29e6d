"""What a request gets: a status, fields and a body. Knows HTTP; knows no sockets and no Nix.

Of ranges: a single one, as RFC 9110 section 14 has it. Several at a time, other units, and what
is no range at all are ignored, which the client is to expect: it gets the whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from nixfetch.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nixfetch.serve.objects import Object
    from nixfetch.serve.request import Request

METHODS = ("GET", "HEAD")
_MAX_DIGITS = 19  # of an offset: below 2^64
_RANGE = re.compile(rf"bytes=[ \t]*([0-9]{{0,{_MAX_DIGITS}}})-([0-9]{{0,{_MAX_DIGITS}}})[ \t]*")


class UnsatisfiableError(FormatError):
    """The range asked for begins behind the end."""


class Span(NamedTuple):
    """Bytes from `start` up to `stop`."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What to send. The body is as long as its Content-Length, whatever the method was."""

    status: HTTPStatus
    fields: tuple[tuple[str, str], ...] = ()
    size: int
    """Bytes of the body."""
    body: Iterator[bytes | memoryview]

    def head(self, *, date: str, close: bool) -> bytes:
        """The status line and the fields, to the empty line at their end."""
        lines = [f"HTTP/1.1 {self.status.value} {self.status.phrase}", "Server: nixfetch"]
        fields = (("Date", date), ("Content-Length", str(self.size)), *self.fields)
        lines += [f"{name}: {value}" for name, value in fields]
        if close:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode("ascii")


def refusal(status: HTTPStatus) -> Answer:
    """The answer that says `status` and no more."""
    text = f"{status.phrase.lower()}\n".encode()
    fields = [("Content-Type", "text/plain")]
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        fields.append(("Allow", ", ".join(METHODS)))
    return Answer(status=status, fields=tuple(fields), size=len(text), body=iter([text]))


def of(found: Object | None, request: Request) -> Answer:
    """The answer to a GET or HEAD `request` for `found`."""
    if found is None:
        return refusal(HTTPStatus.NOT_FOUND)
    try:
        span = _span(found, request)
    except UnsatisfiableError:
        return Answer(
            status=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            fields=(("Content-Range", f"bytes */{found.size}"),),
            size=0,
            body=iter(()),
        )
    fields = [("Content-Type", found.media_type)]
    if found.tag is not None:
        fields += [("ETag", f'"{found.tag}"'), ("Accept-Ranges", "bytes")]
    status = HTTPStatus.OK
    if span is not None:
        status = HTTPStatus.PARTIAL_CONTENT
        fields.append(("Content-Range", f"bytes {span.start}-{span.stop - 1}/{found.size}"))
    start, stop = span or (0, found.size)
    return Answer(
        status=status, fields=tuple(fields), size=stop - start, body=found.read(start, stop)
    )


def _span(found: Object, request: Request) -> Span | None:
    """Which part of `found` to send; None: the whole."""
    field = request.fields.get("range")
    if field is None or request.method != "GET" or found.tag is None:
        return None
    if request.fields.get("if-range", f'"{found.tag}"') != f'"{found.tag}"':
        return None
    span = range_of(field, found.size)
    if span is not None and found.whole_tail and span.stop != found.size:
        return None
    return span


def range_of(field: str, size: int) -> Span | None:
    """Read a Range field for an object of `size` bytes; None: it is to be ignored.

    Raises:
        UnsatisfiableError: there is no such part of the object.
    """
    match = _RANGE.fullmatch(field)
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= size:
        raise UnsatisfiableError("range begins behind the end", start=start, size=size)
    return Span(start, stop)
