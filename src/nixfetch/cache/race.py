"""Several caches asked the same question at once; who is late is not waited for.

Knows no paths: the question comes in as a function.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from nixfetch.cache.client import HEALABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nixfetch.errors import NixfetchError

_C = TypeVar("_C")
_T = TypeVar("_T")
_GRACE = 0.05  # seconds, at least, that others have after the first good answer


@dataclass(frozen=True, slots=True)
class Finish(Generic[_C, _T]):
    """How a race ended."""

    best: _T | None
    """The cheapest good answer; None where there is none."""
    order: list[_C]
    """Who gave it, then others with a good answer, then those who had not answered yet."""
    errors: list[tuple[_C, NixfetchError]]
    """Of those who were no help."""


def race(
    runners: Sequence[_C], ask: Callable[[_C], _T], *, cost: Callable[[_T], Any]
) -> Finish[_C, _T]:
    """Ask all `runners` at once.

    The first good answer gives the others as much time again as it took itself; where none is
    good, all are waited for.

    Args:
        runners: who is asked; the earlier one wins where answers cost the same.
        ask: the question; raises one of `HEALABLE` where there is no good answer.
        cost: of an answer; the lowest wins.

    Raises:
        What else `ask` raises.
    """
    answers: queue.SimpleQueue[tuple[int, _T | BaseException]] = queue.SimpleQueue()

    def run(number: int) -> None:
        try:
            answers.put((number, ask(runners[number])))
        except BaseException as error:  # noqa: BLE001 - judged by who waits
            answers.put((number, error))

    if len(runners) == 1:
        run(0)
    else:
        for number in range(len(runners)):
            threading.Thread(target=run, args=[number], name="nixfetch-race", daemon=True).start()
    good: dict[int, _T] = {}
    errors: list[tuple[_C, NixfetchError]] = []
    began = time.monotonic()
    deadline: float | None = None
    while len(good) + len(errors) < len(runners):
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
