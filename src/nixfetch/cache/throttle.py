"""Holds back whoever downloads faster than all together may."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from nixfetch.plan.bandwidth import Bandwidth

if TYPE_CHECKING:
    from collections.abc import Callable


class Throttle:
    """A limit that caches share. Safe to share among threads."""

    def __init__(
        self,
        rate: float,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        """Begin with nothing spent.

        Args:
            rate: bytes a second.
            now: seconds, monotonic.
            sleep: waits for a number of seconds; by default until `close` at most.
        """
        self._bandwidth = Bandwidth(rate)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._now = now
        self._sleep = sleep or self._over.wait

    def __call__(self, size: int) -> None:
        """Say that `size` bytes have come, and wait until more may."""
        with self._lock:
            seconds = self._bandwidth.take(size, now=self._now())
        if seconds > 0:
            self._sleep(seconds)

    def close(self) -> None:
        """Let go of who waits; nobody waits any more."""
        self._over.set()
