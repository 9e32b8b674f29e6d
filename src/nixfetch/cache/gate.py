"""The door to one kind of objects in one cache: threads wait here, and `plan.health` says why.

While a cache is suspect, one thread asks at a time; the others wait for what it learns. Whoever
waits is woken at once when the cache answers, when it is given up, and when the run is over.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from nixfetch.errors import TransportError
from nixfetch.plan.health import PROMPT, Budget, Health
from nixfetch.transport.base import (
    AuthenticationError,
    NotFoundError,
    Pace,
    UnsatisfiableRangeError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from nixfetch.errors import NixfetchError
    from nixfetch.plan.retry import RetrySchedule

_T = TypeVar("_T")
_CONNECT, _STALL = 5.0, 10.0  # seconds, while another cache is left
_LEAST = 0.5  # seconds: what is left of a budget may be too little for any answer
_OF_THE_CACHE = frozenset(
    {"reason", "status", "seconds", "code", "provider", "profile", "endpoint", "retry_after"}
)  # facts
_LOOK = 0.1  # seconds that one waits at a time: whoever waits may have to give up


class OutOfPatienceError(TransportError):
    """The cache is not asked any more in this run.

    Attributes:
        exit_code: of what it failed with last.
        retryable: it is out only as long as there is another cache.
    """

    def __init__(self, cause: NixfetchError, *, dead: bool) -> None:
        super().__init__(
            "cache is not asked any more",
            reason=_in_short(cause),
            hint=cause.hint,
            retryable=not dead,
        )
        self.exit_code = cause.exit_code


def _in_short(cause: NixfetchError) -> str:
    """What is wrong with the cache; the object at which that was seen has nothing to do with it."""
    known = [f"{name}={value}" for name, value in cause.facts.items() if name in _OF_THE_CACHE]
    return f"{cause.problem} ({', '.join(known)})" if known else cause.problem


class ClosedCacheError(TransportError):
    """The cache was closed while somebody waited for it."""


class Waits:
    """What all gates of one cache share: clock, chance, budget, and the end of the run."""

    def __init__(
        self,
        *,
        now: Callable[[], float],
        sleep: Callable[[float], object] | None,
        fraction: Callable[[], float],
    ) -> None:
        """Begin with a whole budget.

        Args:
            now: seconds, monotonic.
            sleep: waits for a number of seconds; by default until the cache is closed at most.
            fraction: random numbers, at least 0 and below 1.
        """
        self.now = now
        self.over = threading.Event()
        self._sleep = sleep
        self.fraction = fraction
        self.budget = Budget()

    def sleep(self, seconds: float, pausing: Callable[[], object]) -> None:
        """Wait, until the cache is closed at most; `pausing` is called now and then."""
        if self._sleep is not None:
            self._sleep(seconds)
            pausing()
            return
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.over.wait(min(left, _LOOK)):
            pausing()


class Gate:
    """Safe to share among threads."""

    def __init__(self, schedule: RetrySchedule, waits: Waits, pace: Pace) -> None:
        """A gate to a cache that is sound so far.

        Args:
            schedule: how often to try, and how long to wait in between.
            waits: the cache's.
            pace: how long an answer may take when there is no other cache.
        """
        self._schedule = schedule
        self._waits = waits
        self._pace = pace
        self._health = Health(schedule, waits.budget)
        self._last: NixfetchError | None = None
        self._changed = threading.Condition()
        self._probing = False

    def ask(
        self,
        once: Callable[[Pace], _T],
        *,
        hurried: bool,
        pausing: Callable[[], object] = lambda: None,
    ) -> _T:
        """Call `once` until it succeeds, or fails in a way or as often as ends it.

        Args:
            once: a try, with the pace that it is to keep.
            hurried: another cache is left, so that there is a budget.
            pausing: as for `asking`.

        Raises:
            OutOfPatienceError: the cache has failed so often, or for so long, that it is out.
            TransportError: the last failure.
        """
        asking = self.asking(hurried=hurried, pausing=pausing)
        while True:
            pace = asking.begin()
            try:
                result = once(pace)
            except TransportError as error:
                asking.failed(error)
            except BaseException:
                asking.leave()
                raise
            else:
                asking.succeeded()
                return result

    def asking(self, *, hurried: bool, pausing: Callable[[], object] = lambda: None) -> Asking:
        """Somebody who wants an object, and may have to try more than once.

        Args:
            hurried: another cache is left.
            pausing: called before each wait, for a try or an answer, and several times a second
                while it lasts: whoever waits must hold nothing that others wait for. May raise to
                give up.
        """
        return Asking(self, hurried=hurried, pausing=pausing)

    def believed(self) -> None:
        """What came through was good."""
        with self._changed:
            self._health.believed()

    def disbelieved(self, error: NixfetchError) -> None:
        """What came through was not what a cache should say."""
        with self._changed:
            self._last = error
            self._health.disbelieved()

    def give_up(self, error: NixfetchError) -> None:
        """Nothing is to be had there, for this reason: let nobody in any more."""
        with self._changed:
            self._health.given_up(error)
            self._changed.notify_all()

    def close(self) -> None:
        """Wake whoever waits: the run is over."""
        self._waits.over.set()
        with self._changed:
            self._changed.notify_all()

    # For `Asking`.

    def enter(self, *, hurried: bool, not_before: float, pausing: Callable[[], object]) -> bool:
        """Wait for one's turn; whether it is as the one who looks if the cache is back."""
        while True:
            with self._changed:
                probing = self._turn(hurried=hurried, pausing=pausing)
                if probing:
                    not_before = max(not_before, self._health.not_before)
            delay = not_before - self._waits.now()
            if delay <= 0:
                return probing
            try:
                self._pause(delay, hurried=hurried, pausing=pausing)
            except BaseException:
                self.leave(probing=probing)
                raise
            if probing:
                return True
            not_before = float("-inf")  # who slept looks again: much may have happened

    def pace(self, *, hurried: bool) -> Pace:
        """How long a try may take."""
        if not hurried:
            return self._pace
        left = max(self._waits.budget.left, _LEAST)
        return Pace(
            connect=_least(self._pace.connect, _CONNECT, left),
            stall=_least(self._pace.stall, _STALL, left),
            slowest=self._pace.slowest,
        )

    def leave(self, *, probing: bool) -> None:
        """Let the next one in."""
        with self._changed:
            if probing:
                self._probing = False
            self._changed.notify_all()

    def failed(self, error: TransportError, *, began: float, heard: float | None) -> None:
        """A try that began at that time has failed; it made headway last when it was `heard`."""
        waits, health = self._waits, self._health
        with self._changed:
            if isinstance(error, NotFoundError | UnsatisfiableRangeError):
                health.succeeded(began=began)  # it is an answer
                return
            self._last = error
            if isinstance(error, AuthenticationError):
                health.given_up(error)
                return
            if heard is not None:
                health.succeeded(began=began)
            health.failed(
                error, began=began, now=waits.now(), fraction=waits.fraction(), heard=heard
            )

    def succeeded(self, *, began: float) -> None:
        """A try that began at that time was good."""
        with self._changed:
            self._health.succeeded(began=began)

    def answered(self, seconds: float) -> None:
        """An answer began, good or not, and perhaps late."""
        late = seconds - PROMPT
        if late <= 0:
            return
        now = self._waits.now()
        with self._changed:
            self._waits.budget.spend(now - late, now)
            self._last = self._last or TransportError("answers take too long", retryable=True)

    def delay(self, error: TransportError, failures: int) -> float | None:
        """Seconds until the next try of one object after so many failures; None: no more."""
        if not error.retryable:
            return None
        return self._schedule.delay(
            failures, fraction=self._waits.fraction(), retry_after=error.retry_after
        )

    def note_wait(self, error: TransportError) -> None:
        """Have `error` say that the cache wants to be left alone for longer than anybody waits."""
        asked, longest = error.retry_after, self._schedule.longest_asked
        if asked is not None and asked > longest:
            error.facts.setdefault("retry_after", f"{asked:.0f} s")
            error.hint = error.hint or (
                f"it asks to be left alone for {asked:.0f} s, which was not waited for (at most"
                f" {longest:.0f} s are): try again then"
            )

    def now(self) -> float:
        """Seconds, on the clock of the gate."""
        return self._waits.now()

    def _turn(self, *, hurried: bool, pausing: Callable[[], object]) -> bool:
        """Wait, with the condition held, until one may come in; whether it is to look."""
        end = math.inf  # on the system's clock, as the waiting is
        while True:
            self._check(hurried=hurried)
            if not self._health.is_suspect:
                return False
            if not self._probing:
                self._probing = True
                return True
            if hurried:  # who looks may have all the time in the world; who has another has not
                end = min(end, time.monotonic() + self._waits.budget.left)
                if time.monotonic() >= end and self._last is not None:
                    raise OutOfPatienceError(self._last, dead=False)
            pausing()
            # Each time all is looked at again: who is told just when time is over does not hear it.
            self._changed.wait(_LOOK)

    def check(self) -> None:
        """Raise where nobody may ask any more who has another cache."""
        with self._changed:
            self._check(hurried=True)

    def _check(self, *, hurried: bool) -> None:
        if self._waits.over.is_set():
            raise ClosedCacheError("the cache was closed meanwhile")
        if self._health.cause is not None:
            raise OutOfPatienceError(self._health.cause, dead=True)
        if (
            hurried
            and self._last is not None
            and (self._health.distrusted() or not self._waits.budget.left)
        ):
            raise OutOfPatienceError(self._last, dead=False)

    def _pause(self, seconds: float, *, hurried: bool, pausing: Callable[[], object]) -> None:
        waits = self._waits
        if hurried and seconds > waits.budget.left:
            assert self._last is not None
            raise OutOfPatienceError(self._last, dead=False)
        began = waits.now()
        waits.sleep(seconds, pausing)
        if waits.over.is_set():
            raise ClosedCacheError("the cache was closed meanwhile")
        with self._changed:
            waits.budget.spend(began, waits.now())


class Asking:
    """One object, through as many tries as it takes. For one thread."""

    def __init__(self, gate: Gate, *, hurried: bool, pausing: Callable[[], object]) -> None:
        self._gate = gate
        self._pausing = pausing
        self._hurried = hurried
        self._probing = False
        self._began = 0.0
        self._not_before = float("-inf")
        self._heard: float | None = None  # when the try made headway last
        self._failures = 0  # in a row

    def begin(self) -> Pace:
        """Wait until a try may begin; how long it may take.

        Raises:
            OutOfPatienceError: none may any more.
            ClosedCacheError: the run is over.
            What `pausing` raises.
        """
        gate = self._gate
        self._pausing()
        self._probing = gate.enter(
            hurried=self._hurried, not_before=self._not_before, pausing=self._pausing
        )
        self._began = gate.now()
        self._heard = None
        pace = gate.pace(hurried=self._hurried)
        answered = gate.answered if self._hurried else pace.answered
        return replace(pace, pausing=self._pausing, answered=answered)

    def failed(self, error: TransportError) -> None:
        """The try has failed; returns when there may be another one, raises `error` if not.

        One that made headway is no failure in a row.
        """
        gate = self._gate
        self._failures = 1 if self._heard is not None else self._failures + 1
        gate.note_wait(error)
        gate.failed(error, began=self._began, heard=self._heard)
        self.leave()
        delay = gate.delay(error, self._failures)
        if delay is None:
            if self._failures > 1:
                error.facts.setdefault("tries", self._failures)
            raise error
        self._not_before = gate.now() + delay

    def check(self) -> None:
        """See whether it is worth going on with a try that made no headway yet.

        Raises:
            OutOfPatienceError: it is not, as somebody else has found out.
        """
        if self._hurried and self._heard is None:
            self._gate.check()

    def makes_headway(self) -> None:
        """The try goes well so far: nobody has to wait for its end."""
        self._heard = self._gate.now()
        self.succeeded()

    def succeeded(self) -> None:
        """The try was good."""
        self._gate.succeeded(began=self._began)
        self.leave()

    def leave(self) -> None:
        """The try came to no end that says anything about the cache."""
        self._gate.leave(probing=self._probing)
        self._probing = False


def _least(*seconds: float | None) -> float:
    return min(each for each in seconds if each is not None)
