"""Whether a cache is worth waiting for: who may ask it now, when to try again, when to give it up.

    sound ──failure──> suspect: one asks at a time, after growing delays ──success──> sound
                          └─ as many failures in a row as one object has tries ──> dead

One object may fail for reasons of its own; then others succeed, and the cache stays sound. Where
nothing succeeds it is the cache. A burst of requests that fail together is one failure: what
began before the last one was known says nothing new.

While another cache is left, waiting for this one is a luxury, and `budget` seconds of it are all
there are in a run: the wall time in which somebody waited in vain, in a try that failed or
between two, counted once however many waited.

Decides; waits for nothing. The clock and the randomness are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nixfetch.errors import NixfetchError
    from nixfetch.plan.retry import RetrySchedule

BUDGET = 30.0  # seconds of waiting in vain for one cache in a run, while another one is left
FAILURES = 3  # in a row, at least, before a cache is dead, however few tries one object has
UNUSABLE = 10  # answers in a row that are not to be believed, before another cache is preferred


@dataclass(slots=True)
class Budget:
    """Seconds that may be waited in vain for one cache, and how many were."""

    seconds: float = BUDGET
    _spans: list[tuple[float, float]] = field(default_factory=list)

    def spend(self, began: float, ended: float) -> None:
        """Count a span of time, but for what of it was counted already."""
        apart = []
        for start, end in self._spans:
            if end < began or start > ended:
                apart.append((start, end))
            else:
                began, ended = min(began, start), max(ended, end)
        self._spans = [*apart, (began, ended)]

    @property
    def left(self) -> float:
        """Seconds, never negative."""
        return max(0.0, self.seconds - sum(end - start for start, end in self._spans))


class Health:
    """Of one kind of objects in one cache. Not for several threads at once."""

    def __init__(self, schedule: RetrySchedule, budget: Budget) -> None:
        self._schedule = schedule
        self._budget = budget
        self._failures = 0  # in a row, bursts counted once
        self._known = float("-inf")  # when the last of them was known
        self._unusable = 0
        self.not_before = 0.0
        """Nobody asks before this time, while the cache is suspect."""
        self.cause: NixfetchError | None = None
        """Why it is dead; None while it lives."""

    @property
    def is_suspect(self) -> bool:
        """Whether one at a time is enough."""
        return self._failures > 0

    def distrusted(self) -> bool:
        """Whether what it says was of no use so often that another cache is asked instead."""
        return self._unusable >= UNUSABLE

    def succeeded(self) -> None:
        """It gave a whole object, or said that there is none."""
        self._failures = 0

    def believed(self) -> None:
        """What it said was good."""
        self._unusable = 0

    def disbelieved(self) -> None:
        """What it said was not what a cache should say."""
        self._unusable += 1

    def failed(self, error: NixfetchError, *, began: float, now: float, fraction: float) -> None:
        """A try failed for a reason that is the cache's.

        Args:
            error: the reason; its `retry_after` is heeded, where it has one.
            began: when the try did.
            now: the same clock.
            fraction: a random number, at least 0 and below 1.
        """
        self._budget.spend(began, now)
        if began < self._known:
            return
        self._failures += 1
        self._known = now
        wait = getattr(error, "retry_after", None) or 0.0
        schedule = self._schedule
        if wait > schedule.longest_asked or self._failures >= max(schedule.tries, FAILURES):
            self.cause = error
        else:
            self.not_before = now + max(wait, schedule.bound(self._failures) * fraction)

    def given_up(self, error: NixfetchError) -> None:
        """Nothing more is to be had from it in this run."""
        self.cause = error
