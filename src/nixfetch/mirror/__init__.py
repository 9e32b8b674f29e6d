"""Mirrors: closures from caches into a cache of one's own. `fetch` lends the threads."""

from __future__ import annotations

from nixfetch.mirror.destination import Destination, DestinationError
from nixfetch.mirror.opening import open_configured_mirror, open_mirror
from nixfetch.mirror.recipe import Recipe
from nixfetch.mirror.report import MirroredPath, MirrorReport, MirrorStatus
from nixfetch.mirror.run import MirrorFailedError, mirror_closure
from nixfetch.mirror.source import Sources

__all__ = (
    "Destination",
    "DestinationError",
    "MirrorFailedError",
    "MirrorReport",
    "MirrorStatus",
    "MirroredPath",
    "Recipe",
    "Sources",
    "mirror_closure",
    "open_configured_mirror",
    "open_mirror",
)
