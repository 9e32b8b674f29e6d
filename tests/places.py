"""What lies in a directory, a store directory above all."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def names(directory: Path) -> list[str]:
    """Names in `directory`, ascending, but for ``.links``: nothing there may be without a use."""
    found = sorted(entry.name for entry in directory.iterdir())
    if ".links" in found:
        found.remove(".links")
        unused = [
            entry.name for entry in (directory / ".links").iterdir() if entry.lstat().st_nlink < 2
        ]
        assert not unused
    return found
