"""Several caches asked the same question at once; who is late is not waited for.

Knows no paths: the question comes in as a function. A cache that is silent keeps a thread for each
question until it is given up, so that each has a limit (`Lanes`): one whose lanes are all taken is
asked later, if nobody else has a good answer.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from nixfetch.cache.client import HEALABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nixfetch.errors import NixfetchError

_C = TypeVar("_C")
_T = TypeVar("_T")
_GRACE = 0.05  # seconds, at least, that others have after the first good answer
LANES = 48  # threads that wait for one cache: twice as many as there are look-ups at a time


@dataclass(frozen=True, slots=True)
class Finish(Generic[_C, _T]):
    """How a race ended."""

    best: _T | None
    """The cheapest good answer; None where there is none."""
    order: list[_C]
    """Who gave it, then others with a good answer, then those who had not answered yet."""
    errors: list[tuple[_C, NixfetchError]]
    """Of those who were no help."""


class Lanes:
    """The threads of all races of a group. Safe to share among threads."""

    def __init__(self, most: int = LANES) -> None:
        """Start none.

        Args:
            most: that wait for one runner.
        """
        self._most = most
        self._taken: Counter[object] = Counter()
        self._lock = threading.Lock()

    def run(self, runner: object, job: Callable[[], None]) -> bool:
        """Have `job`, which asks `runner`, run by a thread; whether there was a lane for it."""
        with self._lock:
            if self._taken[runner] >= self._most:
                return False
            self._taken[runner] += 1

        def work() -> None:
            try:
                job()
            finally:
                with self._lock:
                    self._taken[runner] -= 1

        try:
            threading.Thread(target=work, name="nixfetch-race", daemon=True).start()
        except RuntimeError:  # this machine has no more of them
            with self._lock:
                self._taken[runner] -= 1
            return False
        return True


def race(
    runners: Sequence[_C],
    ask: Callable[[_C], _T],
    *,
    cost: Callable[[_T], Any],
    lanes: Lanes,
) -> Finish[_C, _T]:
    """Ask all `runners` at once, as far as there are lanes; one in any case.

    The first good answer gives the others as much time again as it took itself; where none is
    good, all are waited for.

    Args:
        runners: who is asked; the earlier one wins where answers cost the same.
        ask: the question; raises one of `HEALABLE` where there is no good answer.
        cost: of an answer; the lowest wins.
        lanes: threads.

    Raises:
        What else `ask` raises.
    """
    answers: queue.SimpleQueue[tuple[int, _T | BaseException]] = queue.SimpleQueue()

    def run(number: int) -> None:
        try:
            answers.put((number, ask(runners[number])))
        except BaseException as error:  # noqa: BLE001 - judged by who waits
            answers.put((number, error))

    asked = 0
    if len(runners) > 1:
        asked = sum(lanes.run(each, partial(run, n)) for n, each in enumerate(runners))
    if not asked:
        run(0)
        asked = 1
    good: dict[int, _T] = {}
    errors: list[tuple[_C, NixfetchError]] = []
    began = time.monotonic()
    deadline: float | None = None
    while len(good) + len(errors) < asked:
        try:
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            number, answer = answers.get(timeout=timeout)
        except queue.Empty:
            break
        if isinstance(answer, HEALABLE):
            errors.append((runners[number], answer))
        elif isinstance(answer, BaseException):
            raise answer
        else:
            good[number] = answer
            now = time.monotonic()
            deadline = deadline or now + max(_GRACE, now - began)
    ranked = sorted(good, key=lambda number: (cost(good[number]), number))
    failed = {id(runner) for runner, _ in errors}
    late = [
        runner
        for number, runner in enumerate(runners)
        if number not in good and id(runner) not in failed
    ]
    return Finish(
        best=good[ranked[0]] if ranked else None,
        order=[*(runners[number] for number in ranked), *late],
        errors=errors,
    )
