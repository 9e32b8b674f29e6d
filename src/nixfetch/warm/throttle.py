"""Holds back downloads by a timetable. Safe to share among threads."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from nixfetch.plan.bandwidth import Bandwidth

if TYPE_CHECKING:
    from collections.abc import Callable

    from nixfetch.plan.timetable import Timetable

_MINUTES = 60
_LONGEST = 30.0  # seconds of one wait, so that a slot that ends lets go of who waits


def minute_of_day() -> int:
    """The local time."""
    now = time.localtime()
    return now.tm_hour * _MINUTES + now.tm_min


class TimetableThrottle:
    """A limit that caches share, another one at other times of the day.

    Args:
        timetable: how much may come when.
        minute: of the day.
        now: seconds, monotonic.
        sleep: waits for a number of seconds; by default until `close` at most.
    """

    def __init__(
        self,
        timetable: Timetable,
        *,
        minute: Callable[[], int] = minute_of_day,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._timetable = timetable
        self._minute = minute
        self._now = now
        self._over = threading.Event()
        self._sleep = sleep or self._over.wait
        self._lock = threading.Lock()
        self._rate: int | None = None
        self._bandwidth: Bandwidth | None = None

    def __call__(self, size: int) -> None:
        """Say that `size` bytes have come, and wait until more may."""
        with self._lock:
            rate = self._timetable.rate(self._minute())
            if rate != self._rate:
                self._rate = rate
                self._bandwidth = None if rate is None else Bandwidth(rate)
            seconds = (
                0.0 if self._bandwidth is None else self._bandwidth.take(size, now=self._now())
            )
        if seconds > 0:
            self._sleep(min(seconds, _LONGEST))

    def close(self) -> None:
        """Let go of who waits; nobody waits any more."""
        self._over.set()
