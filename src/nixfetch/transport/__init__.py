"""Named bytes from remotes: HTTP, S3, directories. Knows nothing of Nix."""

from __future__ import annotations

from nixfetch.transport.base import (
    AuthenticationError,
    Body,
    NotFoundError,
    Range,
    Transport,
    UnsatisfiableRangeError,
)
from nixfetch.transport.locate import locate
from nixfetch.transport.options import TransportOptions
from nixfetch.transport.urls import UrlError

__all__ = [
    "AuthenticationError",
    "Body",
    "NotFoundError",
    "Range",
    "Transport",
    "TransportOptions",
    "UnsatisfiableRangeError",
    "UrlError",
    "locate",
]
