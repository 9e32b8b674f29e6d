"""What can be served: named bytes of a known size. Knows nothing of HTTP, disks and stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

CACHE_INFO = "nix-cache-info"

# Media types, as Nix names them when it uploads.
CACHE_INFO_TYPE = "text/x-nix-cache-info"
NARINFO_TYPE = "text/x-nix-narinfo"
NAR_TYPE = "application/x-nix-nar"
LISTING_TYPE = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """Named bytes, not read yet."""

    size: int
    """Bytes."""
    media_type: str
    read: Callable[[int, int], Iterator[bytes | memoryview]]
    """Gives the bytes from the first offset up to the second. Raises where they are not what
    was promised, before the last of them: an answer that is whole is right."""
    tag: str | None = None
    """Equal for equal bytes only; printable ASCII without quotes."""
    whole_tail: bool = False
    """Whether it can be read to its end only, from wherever."""


def held(data: bytes, media_type: str) -> Object:
    """An object whose bytes are in memory."""
    return Object(
        size=len(data), media_type=media_type, read=lambda start, stop: iter([data[start:stop]])
    )


class Source(Protocol):
    """Where objects come from. Threads may share it."""

    def open(self, name: str) -> AbstractContextManager[Object | None]:
        """The object of that name, to be read inside the block; None where there is none.

        Args:
            name: as the client sent it, percent-decoded, without its first slash; anything.

        Raises:
            StoreError: this machine's fault.
        """
        ...
