"""What happens while a closure is fetched, as values. Sizes are bytes.

All events of a run come in the thread that called `fetch_closure`, one at a time. For one
path: `Present`; or `Found`, `Started` and `Advanced` any number of times, `Fetched`; or
`Failed` at any point. `Walked` comes once, when no more paths can come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from nixfetch.errors import NixfetchError
    from nixfetch.formats.storepath import StorePath


@dataclass(frozen=True, slots=True)
class Present:
    """The path is valid in the store already."""

    path: StorePath


@dataclass(frozen=True, slots=True)
class Found:
    """A cache has the path, and it is to be believed."""

    path: StorePath
    file_size: int | None
    """To be downloaded, where the cache says."""
    nar_size: int
    """To be unpacked."""


@dataclass(frozen=True, slots=True)
class Walked:
    """The whole closure is known."""

    paths: int
    """In all, with those that are there."""
    file_size: int
    """To be downloaded; where a cache does not say, the NAR's size stands in."""
    nar_size: int
    """To be unpacked."""


@dataclass(frozen=True, slots=True)
class Started:
    """The download of a path begins."""

    path: StorePath
    cache: str


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds that went into one path, and on what: to see what a run waits for."""

    network: float = 0.0
    """Until bytes arrived."""
    decoding: float = 0.0
    """Decompression, and the wait for a place among those that do it."""
    disk: float = 0.0
    """Parsing, hashing and writing."""


@dataclass(frozen=True, slots=True)
class Advanced:
    """More of a path has arrived since the last such event."""

    path: StorePath
    downloaded: int
    unpacked: int
    spent: Spent = Spent()


@dataclass(frozen=True, slots=True)
class Fetched:
    """The path is valid: verified, on disk, registered."""

    path: StorePath
    nar_size: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The path will not be had in this run."""

    path: StorePath
    error: NixfetchError


Event: TypeAlias = Present | Found | Walked | Started | Advanced | Fetched | Failed
