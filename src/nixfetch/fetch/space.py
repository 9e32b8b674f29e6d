"""Room on the disk of the store for what is to be unpacked. For one thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nixfetch.errors import StoreError

if TYPE_CHECKING:
    from nixfetch.store.local import LocalStore


class NotEnoughSpaceError(StoreError):
    """What is missing does not fit on the disk of the store."""


class Space:
    """What one run needs, and what there was when it began."""

    def __init__(self, store: LocalStore, *, min_free: int) -> None:
        """Look at the disk.

        Args:
            store: which lies on it.
            min_free: bytes that are to stay free.

        Raises:
            DiskError: it cannot be asked.
        """
        self._store = store
        self._min_free = min_free
        self._free = store.free_space()
        self._needed = 0

    @property
    def room(self) -> int:
        """Bytes that may be written; below 0 where there is less free than is to stay so."""
        return self._free - self._min_free

    def need(self, size: int) -> None:
        """So many bytes more are to be unpacked in the run."""
        self._needed += size

    @property
    def is_short(self) -> bool:
        """Whether that does not fit: nothing more is to be begun."""
        return self._needed > max(0, self.room)

    def check(self) -> None:
        """See whether all fits, once all that is needed is known.

        Raises:
            NotEnoughSpaceError: it does not.
        """
        if not self.is_short:
            return
        kept = {"min_free_bytes": self._min_free} if self._min_free else {}
        lower = "lower --min-free, " if self._min_free else ""
        raise NotEnoughSpaceError(
            "no space left on device for what is missing",
            hint=f"free some space (`nixfetch gc`), {lower}or choose another disk with --store",
            store=str(self._store.root),
            needed_bytes=self._needed,
            free_bytes=self._free,
            **kept,
        )
