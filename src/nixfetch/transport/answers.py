"""What an HTTP answer says about itself: status, and the header fields that we go by.

Knows no sockets and no client: numbers and text in, values and errors out. S3 answers in HTTP,
so its transport asks here too. Header names are lower case in every mapping that is passed in.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from nixfetch.errors import TransportError
from nixfetch.transport.base import (
    AuthenticationError,
    ForbiddenError,
    NotFoundError,
    UnsatisfiableRangeError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nixfetch.transport.base import Range

OK = 200
PARTIAL = 206
UNSATISFIABLE = 416
MISSING = frozenset({404, 410})
FORBIDDEN = 403  # what S3 behind a CDN says for a missing key
_CREDENTIALS_HINTS = {
    401: "check the user and password for this cache",
    407: "it is a proxy that asks: look at HTTP_PROXY and HTTPS_PROXY in the environment",
}
UNAUTHORIZED = frozenset(_CREDENTIALS_HINTS)
_BUSY = frozenset({408, 425, 429})
_SERVER_ERRORS = range(500, 600)  # with those that only CDNs have, such as 520 to 530
_FOR_GOOD = frozenset({501, 505, 511})  # not implemented, no such version, a network's login page
REDIRECTS = frozenset({301, 302, 303, 307, 308})

ENCODINGS = frozenset(
    {"gzip", "deflate", "br", "zstd", "xz", "bzip2"}
)  # Nix uploads with the last two
_TRANSPARENT = frozenset({"", "identity", "aws-chunked"})  # the last: left behind by S3 uploads
_ALIASES = {"x-gzip": "gzip"}

_LONGEST_WAIT = 1e9  # seconds; longer ones are just as hopeless, and may not fit a float
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_STRONG = re.compile(r'"[!#-~]*"')  # others are legal, and cannot be said back in ASCII


class BrokenAnswerError(TransportError):
    """The remote's answer contradicts the request or itself."""


def refusal(status: int, headers: Mapping[str, str], *, now: Callable[[], float]) -> TransportError:
    """The error that a status other than 200 and 206 stands for.

    Args:
        status: the code.
        headers: looked at for Retry-After.
        now: seconds since 1970; asked only when the answer has no date of its own.
    """
    if status in MISSING:
        return NotFoundError("no such object", status=status)
    if status == FORBIDDEN:
        return ForbiddenError("no such object, or not for us", status=status)
    if status in UNAUTHORIZED:
        return AuthenticationError("not authorised", status=status, hint=_CREDENTIALS_HINTS[status])
    if status in _BUSY or (status in _SERVER_ERRORS and status not in _FOR_GOOD):
        wait = retry_after(headers, now=now)
        return TransportError(
            "remote is busy or broken", retryable=True, retry_after=wait, status=status
        )
    if status == UNSATISFIABLE:
        return UnsatisfiableRangeError("object is shorter than the range asked for", status=status)
    return TransportError("unexpected answer", status=status)


def retry_after(headers: Mapping[str, str], *, now: Callable[[], float]) -> float | None:
    """Seconds that the remote wants us to wait, never negative; None where it does not say.

    A date counts from the answer's own Date, so that a wrong clock here does no harm.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text) if len(text) < len(str(int(_LONGEST_WAIT))) else _LONGEST_WAIT
    when = _timestamp(text)
    if when is None:
        return None
    sent = _timestamp(headers.get("date", ""))
    return max(0.0, when - (now() if sent is None else sent))


def _timestamp(text: str) -> float | None:
    try:
        when = parsedate_to_datetime(text)
        return when.replace(tzinfo=when.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return None


def encoding(text: str | None) -> str | None:
    """The one encoding that a Content-Encoding field names; None for none.

    Raises:
        TransportError: it names several, or one that nothing here can undo.
    """
    names = [name.strip().lower() for name in (text or "").split(",")]
    found = [_ALIASES.get(name, name) for name in names if name not in _TRANSPARENT]
    if not found:
        return None
    if len(found) > 1 or found[0] not in ENCODINGS:
        raise TransportError("cannot undo this Content-Encoding", encoding=", ".join(found))
    return found[0]


def strong(etag: str | None) -> str | None:
    """`etag`, if it is a strong one: ``"…"``, not ``W/"…"``."""
    return etag if etag and _STRONG.fullmatch(etag) else None


def range_field(wanted: Range) -> str:
    """The Range field that asks for `wanted`."""
    return f"bytes={wanted.start}-{'' if wanted.stop is None else wanted.stop - 1}"


def content_range(text: str | None, wanted: Range) -> int:
    """Check that a 206 answer holds what was asked for.

    Args:
        text: the Content-Range field.
        wanted: what was asked for. An object that ends earlier is cut at its end.

    Returns:
        Bytes to come.

    Raises:
        BrokenAnswerError: it is another part, or more or less of it; retryable, as the next
            answer may come from a saner cache in between.
    """
    match = _CONTENT_RANGE.fullmatch((text or "").strip())
    if match is None:
        raise BrokenAnswerError("partial answer without a usable Content-Range", retryable=True)
    first, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    stop = min((end for end in (wanted.stop, total) if end is not None), default=last + 1)
    if first != wanted.start or last + 1 != stop:
        raise BrokenAnswerError(
            "wrong part of the object",
            retryable=True,
            content_range=match[0],
            asked=range_field(wanted),
        )
    return last + 1 - first
