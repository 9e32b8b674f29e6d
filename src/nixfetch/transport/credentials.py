"""How we say to a cache who we are. Knows no files and no requests."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TypeAlias


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
    """A token (RFC 6750)."""

    token: str = field(repr=False)

    def authorization(self) -> str:
        """The value of the Authorization field."""
        return f"Bearer {self.token}"


Credentials: TypeAlias = Basic | Bearer
