"""Downloads that are unpacked, and are kept until their paths are registered.

A process that is killed in between has lost the tree, but not the download. Where that costs room
which the rest of the closure needs, it is not worth it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nixfetch.cache.group import Found
    from nixfetch.formats.storepath import StorePath


class Kept:
    """The downloads of one run. For one thread."""

    def __init__(self, room: int) -> None:
        """None yet.

        Args:
            room: bytes for these and for all that is unpacked.
        """
        self._room = room
        self._needed = 0
        self._found: dict[StorePath, Found] = {}
        self._bytes = 0

    def need(self, size: int) -> None:
        """So many bytes more are to be unpacked in the run."""
        self._needed += size
        self._make_room()

    def keep(self, found: Found) -> None:
        """This one is unpacked."""
        self._found[found.trusted.info.path] = found
        self._bytes += _size(found)
        self._make_room()

    def settle(self, paths: Iterable[StorePath]) -> None:
        """These are registered."""
        for path in paths:
            if (found := self._found.pop(path, None)) is not None:
                self._bytes -= _size(found)
                found.cache.forget_download(found.trusted)

    def _make_room(self) -> None:
        if self._needed + self._bytes > self._room:
            self.settle(list(self._found))


def _size(found: Found) -> int:
    info = found.trusted.info
    return info.nar_size if info.file_size is None else info.file_size
