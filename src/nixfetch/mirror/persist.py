"""Does something until it is done, as the retry schedule says. Knows not what."""

from __future__ import annotations

import logging
import random
import threading
from typing import TYPE_CHECKING, TypeVar

from nixfetch.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nixfetch.plan.retry import RetrySchedule

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Persistent:
    """Threads may share it.

    Args:
        schedule: how often to try, and how long to wait between tries.
        sleep: waits for a number of seconds; by default until `close` at most.
        fraction: gives random numbers, at least 0 and below 1.
    """

    def __init__(
        self,
        schedule: RetrySchedule,
        *,
        sleep: Callable[[float], object] | None = None,
        fraction: Callable[[], float] = random.random,
    ) -> None:
        self._schedule = schedule
        self._over = threading.Event()
        self._sleep = sleep or self._over.wait
        self._fraction = fraction

    def __call__(self, act: Callable[[], _T]) -> _T:
        failures = 0
        while True:
            try:
                return act()
            except TransportError as error:
                failures += 1
                delay = self._schedule.delay(
                    failures, fraction=self._fraction(), retry_after=error.retry_after
                )
                if not error.retryable or delay is None or self._over.is_set():
                    error.facts.setdefault("tries", failures)
                    raise
                _log.info("try again in %.1f s: %s", delay, error)
                self._sleep(delay)

    def close(self) -> None:
        """Let go of who waits, and have nothing tried again."""
        self._over.set()
