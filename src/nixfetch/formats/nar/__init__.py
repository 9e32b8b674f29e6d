"""NAR, Nix's archive format: a reader from bytes to events, a writer from events to bytes."""

from __future__ import annotations

from nixfetch.formats.nar.events import Contents, Directory, End, Event, Regular, Symlink
from nixfetch.formats.nar.reader import NarError, NarReader
from nixfetch.formats.nar.writer import NarWriter

__all__ = (
    "Contents",
    "Directory",
    "End",
    "Event",
    "NarError",
    "NarReader",
    "NarWriter",
    "Regular",
    "Symlink",
)
