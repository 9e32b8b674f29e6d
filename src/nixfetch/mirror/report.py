"""What became of each path that was to be mirrored."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nixfetch.errors import NixfetchError
    from nixfetch.formats.storepath import StorePath


class MirrorStatus(Enum):
    """What became of a path."""

    COPIED = "copied"
    PRESENT = "present"
    FAILED = "failed"
    WANTED = "wanted"
    """Of a dry run: it would be copied."""


@dataclass(slots=True, kw_only=True)
class MirroredPath:
    """One path of the closure. Sizes are bytes."""

    path: StorePath
    status: MirrorStatus
    cache: str | None = None
    signed_by: tuple[str, ...] = ()
    content_addressed: bool = False
    nar_size: int | None = None
    file_size: int | None = None
    """Of its file in the mirror."""
    sent: int = 0
    """Written to the mirror; 0 where its NAR was there already."""
    exact: bool | None = None
    """Whether its narinfo is that of the cache, byte for byte."""
    seconds: float = 0.0
    attempts: int = 0
    """Caches whose NAR was tried."""
    error: NixfetchError | None = None

    def to_json(self) -> dict[str, Any]:
        """As `mirror --json` has it."""
        return {
            "path": str(self.path),
            "status": self.status.value,
            "cache": self.cache,
            "signed_by": list(self.signed_by),
            "content_addressed": self.content_addressed,
            "nar_size": self.nar_size,
            "file_size": self.file_size,
            "sent": self.sent,
            "exact": self.exact,
            "seconds": round(self.seconds, 3),
            "attempts": self.attempts,
            "error": None if self.error is None else str(self.error),
        }


@dataclass(slots=True, kw_only=True)
class MirrorReport:
    """A whole run."""

    mirror: str
    """Where it is."""
    requested: tuple[StorePath, ...]
    paths: dict[StorePath, MirroredPath] = field(default_factory=dict)
    """Every path of the closure, in the order in which it was met."""
    bytes_downloaded: int = 0
    bytes_sent: int = 0
    seconds: float = 0.0
    stopped: str | None = None
    """Why the run began no more copies, where it was told to end early."""

    def those(self, status: MirrorStatus) -> list[MirroredPath]:
        """The paths that this became of."""
        return [path for path in self.paths.values() if path.status is status]

    @property
    def failures(self) -> list[MirroredPath]:
        """The paths that are not in the mirror now, and should be."""
        return self.those(MirrorStatus.FAILED)

    def to_json(self) -> dict[str, Any]:
        """As `mirror --json` has it."""
        return {
            "mirror": self.mirror,
            "requested": list(map(str, self.requested)),
            "paths": [path.to_json() for path in self.paths.values()],
            "bytes_downloaded": self.bytes_downloaded,
            "bytes_sent": self.bytes_sent,
            "seconds": round(self.seconds, 3),
            "stopped": self.stopped,
        }
