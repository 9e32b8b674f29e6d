"""Many like jobs, several at a time: their results as they come."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from nixfetch.fetch.pool import Crash, Pool, next_result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_T = TypeVar("_T")
_PATIENCE = 2.0  # seconds that an interrupted run waits for its threads
_AHEAD = 2  # jobs a thread has waiting, so that none is idle


class Stopped(Exception):  # noqa: N818 - a signal between us and our threads, no error
    """Nobody waits for the result any more."""


class Stop:
    """Says to jobs in other threads that they are in vain."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Say so."""
        self._event.set()

    def check(self) -> None:
        """Raises `Stopped` when that was said; between two pieces of long work."""
        if self._event.is_set():
            raise Stopped


def run_jobs(
    name: str, jobs: Iterable[Callable[[], _T]], *, threads: int, stop: Stop
) -> Iterator[_T]:
    """Run `jobs`, begun in their order; what they raise comes out here.

    Args:
        name: of the threads.
        jobs: looked at only a little ahead.
        threads: at most this many.
        stop: set when whoever listens does not any more; jobs ask it now and then.
    """
    results: queue.SimpleQueue[_T | Crash] = queue.SimpleQueue()
    pool: Pool[_T] = Pool(name, threads, results)
    pending = iter(jobs)
    try:
        for job in itertools.islice(pending, threads * _AHEAD):
            pool.submit(job)
        while pool.pending:
            result = next_result(results)
            pool.pending -= 1
            if isinstance(result, Crash):
                raise result.error
            for job in itertools.islice(pending, 1):
                pool.submit(job)
            yield result
    finally:
        stop.set()
        pool.close(deadline=time.monotonic() + _PATIENCE)
