"""What a run did, path by path."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nixfetch.errors import NixfetchError
    from nixfetch.formats.storepath import StorePath


class Status(Enum):
    """What became of a path."""

    FETCHED = "fetched"
    PRESENT = "present"
    FAILED = "failed"
    WANTED = "wanted"
    """Of a dry run: it would be fetched."""


@dataclass(slots=True, kw_only=True)
class PathReport:
    """One path of the closure. Sizes are bytes."""

    path: StorePath
    status: Status
    cache: str | None = None
    signed_by: tuple[str, ...] = ()
    content_addressed: bool = False
    nar_size: int | None = None
    file_size: int | None = None
    seconds: float = 0.0
    """From the request of its NAR to its unpacked tree."""
    attempts: int = 0
    """Caches whose NAR was tried."""
    error: NixfetchError | None = None

    @property
    def vouched_for(self) -> str:
        """On whose word it is believed, for people."""
        words = ["content-addressed"] if self.content_addressed else []
        if self.signed_by:
            words.append(f"signed by {', '.join(self.signed_by)}")
        return " and ".join(words) or "unsigned"

    def to_json(self) -> dict[str, Any]:
        """As `fetch --json` has it."""
        return {
            "path": str(self.path),
            "status": self.status.value,
            "cache": self.cache,
            "signed_by": list(self.signed_by),
            "content_addressed": self.content_addressed,
            "nar_size": self.nar_size,
            "file_size": self.file_size,
            "seconds": round(self.seconds, 3),
            "attempts": self.attempts,
            "error": None if self.error is None else str(self.error),
        }


@dataclass(slots=True, kw_only=True)
class Report:
    """A whole run."""

    store: str
    """The root of the store."""
    requested: tuple[StorePath, ...]
    paths: dict[StorePath, PathReport] = field(default_factory=dict)
    """Every path that the walk met, in that order. The references of a path that was valid
    already are valid too, and are not walked."""
    bytes_downloaded: int = 0
    bytes_unpacked: int = 0
    bytes_saved: int = 0
    """Of files that the store had already, and that were linked instead of kept."""
    seconds: float = 0.0

    @property
    def failures(self) -> list[PathReport]:
        """The paths that were not had."""
        return [path for path in self.paths.values() if path.status is Status.FAILED]

    def to_json(self) -> dict[str, Any]:
        """As `fetch --json` has it."""
        return {
            "store": self.store,
            "requested": list(map(str, self.requested)),
            "paths": [path.to_json() for path in self.paths.values()],
            "bytes_downloaded": self.bytes_downloaded,
            "bytes_unpacked": self.bytes_unpacked,
            "bytes_saved": self.bytes_saved,
            "seconds": round(self.seconds, 3),
        }
