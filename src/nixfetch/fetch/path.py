"""One path: from the caches that have it into the store's staging."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nixfetch.cache.group import HEALABLE
from nixfetch.fetch.progress import Spent

if TYPE_CHECKING:
    from collections.abc import Callable

    from nixfetch.cache.group import CacheGroup, Found
    from nixfetch.plan.trust import TrustPolicy
    from nixfetch.store.local import LocalStore


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A path whose tree is finished and waits for `LocalStore.settle`."""

    found: Found
    attempts: int
    """Caches whose NAR was tried."""
    downloaded: int
    """Bytes, in vain or not."""
    saved: int
    """Bytes of files that the store had already."""
    seconds: float


class Gauge:
    """Counts the bytes of one path and what its time goes into, and says so now and then."""

    def __init__(self, tell: Callable[[int, int], None], *, now: Callable[[], float]) -> None:
        """Call `tell` with bytes downloaded and unpacked since its last call."""
        self._tell = tell
        self._now = now
        self._due = 0.0
        self._downloaded = 0
        self._unpacked = 0
        self._mark = now()  # until when time is accounted for
        self._network = self._decoding = self._disk = 0.0
        self.total = 0
        """Bytes downloaded so far."""

    def downloaded(self, size: int) -> None:
        """Count `size` bytes that arrived."""
        self._network += self._lap()
        self._downloaded += size
        self.total += size

    def decoded(self) -> None:
        """A chunk is decoded, and about to be written."""
        self._decoding += self._lap()

    def unpacked(self, size: int) -> None:
        """Count `size` bytes that were decoded and written."""
        self._disk += self._lap()
        self._unpacked += size
        if self._now() >= self._due:
            self.flush()

    def spent(self) -> Spent:
        """What time went into since the last call."""
        spent = Spent(self._network, self._decoding, self._disk)
        self._network = self._decoding = self._disk = 0.0
        return spent

    def _lap(self) -> float:
        mark, self._mark = self._mark, self._now()
        return self._mark - mark

    def flush(self) -> None:
        """Say what was not yet said."""
        if self._downloaded or self._unpacked:
            self._tell(self._downloaded, self._unpacked)
        self._downloaded = self._unpacked = 0
        self._due = self._now() + _INTERVAL


_INTERVAL = 0.1  # seconds between two words of progress about one path


def unpack(
    found: Found,
    *,
    caches: CacheGroup,
    policy: TrustPolicy,
    store: LocalStore,
    gauge: Gauge,
    started: Callable[[Found], None] = lambda _: None,
    checkpoint: Callable[[], None] = lambda: None,
) -> Unpacked:
    """Download, verify and unpack one path, from the next cache when one fails at it.

    Args:
        found: where to begin.
        caches: where to go on.
        policy: whom to believe there.
        store: where it goes.
        gauge: is told of bytes.
        started: is told of each cache that is tried.
        checkpoint: called between chunks; raises to give up.

    Raises:
        NixfetchError: no cache gave it, or the store could not take it. Nothing is left.
    """
    begin = time.monotonic()
    attempts = 0
    while True:
        attempts += 1
        started(found)
        try:
            with (
                store.adding(found.trusted) as sink,
                found.cache.nar(found.trusted, downloaded=gauge.downloaded) as chunks,
            ):
                for chunk in chunks:
                    checkpoint()
                    gauge.decoded()
                    sink.write(chunk)
                    gauge.unpacked(len(chunk))
        except HEALABLE as error:
            found = caches.find_next(found, error, policy)
        else:
            gauge.flush()
            seconds = time.monotonic() - begin
            return Unpacked(found, attempts, gauge.total, sink.saved, seconds)
