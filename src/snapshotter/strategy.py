"""How containers get their store paths, by what containerd can do. Knows no gRPC.

Containerd honours the target of a mount from 1.7 on; before, it would put each bind over the root
of the container. One overlay works with all of them, so that is what an unknown one gets.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

import nixfetch

if TYPE_CHECKING:
    from collections.abc import Callable

    from snapshotter.mounting import Mode

TARGETS_SINCE = (1, 7, 0)
AGAIN = 10.0  # seconds that an answer holds; containerd may be replaced while we run

_log = logging.getLogger(__name__)


class Auto:
    """Asks containerd for its version, now and then. Safe to share among threads."""

    def __init__(
        self,
        version: Callable[[], tuple[int, int, int]],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Ask nobody yet.

        Args:
            version: asks containerd.
            now: the clock: seconds.
        """
        self._version, self._now = version, now
        self._lock = threading.Lock()
        self._mode: Mode | None = None
        self._until = float("-inf")

    def __call__(self) -> Mode:
        """The mode for the next container."""
        with self._lock:
            if self._now() < self._until and self._mode is not None:
                return self._mode
            try:
                version = self._version()
            except nixfetch.NixfetchError as error:
                # What it was a moment ago it still is, most likely.
                _log.warning("version of containerd is not known: %s", error)
                return self._mode or "lower"
            mode: Mode = "target" if version >= TARGETS_SINCE else "lower"
            if mode != self._mode:
                _log.info("containerd is %d.%d.%d: mount mode %s", *version, mode)
            self._mode, self._until = mode, self._now() + AGAIN
            return mode
