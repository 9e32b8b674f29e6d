r"""The head of an HTTP/1.1 request, bytes to a value. Does no I/O, and knows no answers.

    head  ::= line "\r\n" (name ":" value "\r\n")* "\r\n"
    line  ::= method " " target " HTTP/1." digit

No continuation lines and no bare line feeds, so that nobody in between can see other boundaries
between requests than we do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from nixfetch.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_HEAD = 16 * 1024  # bytes; those of real clients have less than 1 KiB
END = b"\r\n\r\n"
_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_LINE = re.compile(rf"({_WORD}) ([!-~]+) HTTP/1\.([0-9])")
_FIELD_NAME = re.compile(_WORD)
_FIELD_VALUE = re.compile(r"[\t -~\x80-\xff]*")
_AUTHORITY = re.compile(r"https?://[^/?]*", re.IGNORECASE)
_ONCE = frozenset({"host", "range", "if-range", "content-length", "transfer-encoding"})


class RequestError(FormatError):
    """The bytes are no request that we answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asks."""

    method: str
    target: str
    """As it was sent; printable ASCII."""
    name: str
    """The path of `target`, percent-decoded, without its first slash and its query."""
    fields: Mapping[str, str]
    """By name in lower case; those that came twice are joined by a comma."""
    has_body: bool
    """Then nobody here knows where the next request begins."""
    keep_alive: bool
    """Whether the client has a use for the connection afterwards."""

    @classmethod
    def parse(cls, head: bytes) -> Request:
        """Read a head, without the empty line at its end.

        Raises:
            RequestError: not HTTP/1, a malformed line, a field twice that may come once, or
                no host.
        """
        first, *rest = head.decode("latin-1").split("\r\n")
        match = _LINE.fullmatch(first)
        if match is None:
            raise RequestError("malformed request line")
        method, target, minor = match.groups()
        fields = _fields(rest)
        if minor != "0" and "host" not in fields:
            raise RequestError("request names no host")
        options = {word.strip().lower() for word in fields.get("connection", "").split(",")}
        return cls(
            method=method,
            target=target,
            name=_name(target),
            fields=fields,
            has_body="transfer-encoding" in fields or fields.get("content-length", "0") != "0",
            keep_alive=minor != "0" and "close" not in options,
        )


def _fields(lines: list[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if not (colon and _FIELD_NAME.fullmatch(name) and _FIELD_VALUE.fullmatch(value)):
            raise RequestError("malformed field")
        if name in fields and name in _ONCE:
            raise RequestError("field comes twice", field=name)
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def _name(target: str) -> str:
    """The path of a target; one in absolute form, as proxies get it, is one of ours too."""
    path = _AUTHORITY.sub("", target, count=1) if not target.startswith("/") else target
    return unquote(path.partition("?")[0].removeprefix("/"), "latin-1")
