"""Whether a cache is worth waiting for: who may ask it now, when to try again, when to give it up.

    sound ──failure──> suspect: one asks at a time, after growing delays ──success──> sound
                          └─ as many failures in a row as one object has tries ──> dead

One object may fail for reasons of its own; then others succeed, and the cache stays sound. Where
nothing succeeds it is the cache. A burst of requests that fail together is one failure: what
began before the last one was known says nothing new. A cache that says for how long to leave it
alone (Retry-After) is left alone by all, whatever else of it comes in meanwhile.

While another cache is left, waiting for this one is a luxury, and `budget` seconds of it are all
there are in a run: the wall time in which somebody waited in vain, in a try that failed or
between two, counted once however many waited. Of a download that fails, only the time since it
last made headway is in vain. And a cache that takes long for each answer, if only to say that it
has no such path, holds up a whole closure, link by link: what is above `PROMPT` counts as well.

Decides; waits for nothing. The clock and the randomness are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nixfetch.errors import NixfetchError
    from nixfetch.plan.retry import RetrySchedule

BUDGET = 30.0  # seconds of waiting in vain for one cache in a run, while another one is left
PROMPT = 2.0  # seconds that an answer may take to come; what is above counts, though it comes
FAILURES = 3  # in a row, at least, before a cache is dead, however few tries one object has
UNUSABLE = 10  # answers in a row that are not to be believed, before another cache is preferred
_SPANS = 64  # that are kept apart; what began before those is hardly heard of again


@dataclass(slots=True)
class Budget:
    """Seconds that may be waited in vain for one cache, and how many were."""

    seconds: float = BUDGET
    _spans: list[tuple[float, float]] = field(default_factory=list)
    _before: float = 0.0  # seconds in spans that are not kept any more

    def spend(self, began: float, ended: float) -> None:
        """Count a span of time, but for what of it was counted already."""
        apart = []
        for start, end in self._spans:
            if end < began or start > ended:
                apart.append((start, end))
            else:
                began, ended = min(began, start), max(ended, end)
        self._spans = [*apart, (began, ended)]
        if len(self._spans) > _SPANS:
            oldest = min(self._spans)
            self._spans.remove(oldest)
            self._before += oldest[1] - oldest[0]

    @property
    def left(self) -> float:
        """Seconds, never negative."""
        spent = sum(end - start for start, end in self._spans)
        return max(0.0, self.seconds - self._before - spent)


class Health:
    """Of one kind of objects in one cache. Not for several threads at once."""

    def __init__(self, schedule: RetrySchedule, budget: Budget) -> None:
        self._schedule = schedule
        self._budget = budget
        self._failures = 0  # in a row, bursts counted once
        self._known = float("-inf")  # when the last of them was known
        self._left_alone = False  # because it asked for that
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

    def succeeded(self, *, began: float) -> None:
        """It gave a whole object, or said that there is none.

        Args:
            began: when it was asked.
        """
        if self._left_alone and began < self._known:
            return  # it was on its way before the cache asked to be left alone
        self._failures = 0
        self._left_alone = False

    def believed(self) -> None:
        """What it said was good."""
        self._unusable = 0

    def disbelieved(self) -> None:
        """What it said was not what a cache should say."""
        self._unusable += 1

    def failed(
        self,
        error: NixfetchError,
        *,
        began: float,
        now: float,
        fraction: float,
        heard: float | None = None,
    ) -> None:
        """A try failed for a reason that is the cache's.

        Args:
            error: the reason; its `retry_after` is heeded, where it has one.
            began: when the try did.
            now: the same clock.
            fraction: a random number, at least 0 and below 1.
            heard: when it last made headway, where it did.
        """
        self._budget.spend(began if heard is None else heard, now)
        wait = getattr(error, "retry_after", None) or 0.0
        if wait > self._schedule.longest_asked:
            self.cause = error
        if wait:
            self._left_alone = True
            self.not_before = max(self.not_before, now + wait)
        if began < self._known:
            self._failures = max(self._failures, 1) if wait else self._failures
            return
        self._failures += 1
        self._known = now
        if self._failures >= max(self._schedule.tries, FAILURES):
            self.cause = error
        bound = self._schedule.bound(self._failures)
        self.not_before = max(self.not_before, now + bound * fraction)

    def given_up(self, error: NixfetchError) -> None:
        """Nothing more is to be had from it in this run."""
        self.cause = error
