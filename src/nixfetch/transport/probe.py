"""The head of one answer of a cache over HTTP, for whoever looks for what is wrong with it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from nixfetch.transport import http

if TYPE_CHECKING:
    from nixfetch.transport.credentials import Credentials
    from nixfetch.transport.options import TransportOptions


@dataclass(frozen=True, slots=True)
class Head:
    """What an answer says beside its body."""

    status: int
    date: float | None
    """When it was sent by the server's clock, in seconds since 1970."""
    server: str | None
    """What it says it is."""


def head(
    url: str, name: str, *, options: TransportOptions, credentials: Credentials | None = None
) -> Head:
    """Ask for an object below `url`, and go no further than the first answer.

    Raises:
        TransportError: there was none.
    """
    with closing(http.connect(url, options=options, credentials=credentials)) as transport:
        target = transport._target(name)  # noqa: SLF001 - of the same room
        with closing(transport._send(target, None, None)) as response:  # noqa: SLF001 - the same
            fields = response.headers
            return Head(
                response.status_code,
                _timestamp(fields.get("date", "")),
                fields.get("server"),
            )


def _timestamp(text: str) -> float | None:
    try:
        when = parsedate_to_datetime(text)
        return when.replace(tzinfo=when.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return None
