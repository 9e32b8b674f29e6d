"""A walk over all that some paths refer to, many questions in flight.

Knows neither caches nor stores: who answers comes in as `ask`. Nothing is fetched.

    wanted ──> [threads: ask] ──answer──> learn ──> wanted …

The calling thread alone decides what is asked; it waits for nothing but one queue, so that
Ctrl-C ends the walk at once, whatever the servers do.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from nixfetch.errors import NixfetchError, StoreError
from nixfetch.fetch.jobs import LOOKUPS
from nixfetch.fetch.pool import Crash, Pool, next_result
from nixfetch.plan.closure import Closure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from nixfetch.formats.storepath import StorePath

_T = TypeVar("_T")
_PATIENCE = 0.2  # seconds that an interrupted walk waits for its threads: they hold nothing
_REST = 60.0  # seconds that a finished walk waits for them; they have nothing left to do
_MISSING = 3  # exit code: some paths are in no cache
_GRAVEST_FIRST = {code: rank for rank, code in enumerate((6, 4, 5, 3))}  # of exit codes


@dataclass(frozen=True, slots=True)
class Lost:
    """A path about which there is no answer, and why."""

    path: StorePath
    error: NixfetchError
    """Says `needed_by`, the way from an asked path, where the path was not asked for itself."""

    @property
    def is_missing(self) -> bool:
        """Whether everybody said that there is no such path: nothing broke."""
        return self.error.exit_code == _MISSING


class LookupsFailedError(NixfetchError):
    """About some paths there was no answer; its leaves carry a `report` of the others.

    Attributes:
        exit_code: of the gravest reason.
    """

    def __init__(self, problem: str, failures: Sequence[Lost]) -> None:
        super().__init__(problem, failed=len(failures))
        self.exit_code = min((failure.error.exit_code for failure in failures), key=_gravity)


@dataclass(frozen=True, slots=True)
class Walk(Generic[_T]):
    """What a walk learnt."""

    found: dict[StorePath, _T]
    """The answers, in the order in which they came: another one each time."""
    failures: list[Lost]
    """The paths without an answer, by path."""


@dataclass(frozen=True, slots=True)
class _Answer(Generic[_T]):
    path: StorePath
    value: _T


class _Cancelled(Exception):  # noqa: N818 - no error: the walk is over
    """Raised in a thread when nobody wants its answer any more."""


_Result: TypeAlias = _Answer[_T] | Lost


def walk(
    paths: Iterable[StorePath],
    *,
    ask: Callable[[StorePath], _T],
    references: Callable[[_T], Iterable[StorePath]],
    threads: int = LOOKUPS,
) -> Walk[_T]:
    """Ask about `paths` and all that they refer to, each once.

    Args:
        paths: where to begin.
        ask: answers about one path, or raises a `NixfetchError`; called in threads.
        references: what an answer refers to; nothing, to go no further from there.
        threads: questions at a time.

    Returns:
        The answers, and the paths without one; what those refer to is not walked.

    Raises:
        StoreError: from `ask`; the next path would fare no better.
        KeyboardInterrupt, or what else `ask` raises: the walk is over.
    """
    closure = Closure(paths)
    results: queue.SimpleQueue[_Result[_T] | Crash] = queue.SimpleQueue()
    pool: Pool[_Result[_T]] = Pool("nixfetch-walk", threads, results)
    cancelled = threading.Event()
    done: Walk[_T] = Walk({}, [])
    clean = False
    try:
        while True:
            for path in closure.wanted():
                pool.submit(partial(_answer, path, ask, cancelled))
            if not pool.pending:
                break
            result = _checked(next_result(results))
            pool.pending -= 1
            if isinstance(result, Lost):
                _lose(result, closure)
                done.failures.append(result)
            else:
                closure.learn(result.path, references(result.value))
                done.found[result.path] = result.value
        clean = True
    finally:
        cancelled.set()
        pool.close(deadline=time.monotonic() + (_REST if clean else _PATIENCE))
    done.failures.sort(key=lambda lost: lost.path.base)
    return done


def _answer(
    path: StorePath, ask: Callable[[StorePath], _T], cancelled: threading.Event
) -> _Result[_T]:
    if cancelled.is_set():
        raise _Cancelled
    try:
        return _Answer(path, ask(path))
    except NixfetchError as error:
        return Lost(path, error)


def _checked(result: _Result[_T] | Crash) -> _Result[_T]:
    if isinstance(result, Crash):
        raise result.error
    return result


def _lose(lost: Lost, closure: Closure) -> None:
    if isinstance(lost.error, StoreError):
        raise lost.error
    chain = closure.chain(lost.path)
    if len(chain) > 1:
        lost.error.facts.setdefault("needed_by", [str(link) for link in chain[:-1]])
    closure.learn(lost.path, ())


def _gravity(exit_code: int) -> int:
    return _GRAVEST_FIRST.get(exit_code, len(_GRAVEST_FIRST))
