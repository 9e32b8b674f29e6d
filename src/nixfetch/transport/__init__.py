"""Named bytes from remotes: HTTP, S3, directories. Knows nothing of Nix."""

from __future__ import annotations

from nixfetch.transport.base import (
    AuthenticationError,
    Body,
    ForbiddenError,
    NotFoundError,
    Pace,
    Range,
    Transport,
    UnsatisfiableRangeError,
)
from nixfetch.transport.credentials import Basic, Bearer, Credentials
from nixfetch.transport.locate import locate
from nixfetch.transport.options import TransportOptions
from nixfetch.transport.urls import UrlError

__all__ = [
    "AuthenticationError",
    "Basic",
    "Bearer",
    "Body",
    "Credentials",
    "ForbiddenError",
    "NotFoundError",
    "Pace",
    "Range",
    "Transport",
    "TransportOptions",
    "UnsatisfiableRangeError",
    "UrlError",
    "locate",
]
