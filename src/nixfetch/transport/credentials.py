"""How we say to a cache who we are. Knows no files and no requests."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import TypeAlias

from nixfetch.transport.base import AuthenticationError

_TOKEN = re.compile(r"[!-~]+")  # wider than RFC 6750, which real tokens do not keep to


@dataclass(frozen=True, slots=True)
class Basic:
    """A user and a password (RFC 7617)."""

    user: str
    password: str = field(repr=False)

    def authorization(self) -> str:
        """The value of the Authorization field."""
        text = f"{self.user}:{self.password}".encode()
        return "Basic " + base64.b64encode(text).decode("ascii")


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token (RFC 6750).

    Raises:
        AuthenticationError: it is empty, or has blanks, control characters or others that cannot
            be sent.
    """

    token: str = field(repr=False)

    def __post_init__(self) -> None:
        if not _TOKEN.fullmatch(self.token):
            raise AuthenticationError(
                "malformed bearer token", hint="it is one word of ASCII, without blanks"
            )

    def authorization(self) -> str:
        """The value of the Authorization field."""
        return f"Bearer {self.token}"


Credentials: TypeAlias = Basic | Bearer
