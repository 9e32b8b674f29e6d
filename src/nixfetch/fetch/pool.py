"""A fixed number of threads that do what they are told and say what came of it.

Not `concurrent.futures`: its threads are joined when the interpreter ends, so that Ctrl-C
would wait for a server that does not answer.
"""

from __future__ import annotations

import queue
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from nixfetch.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
_LOOK_UP = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class Crash:
    """A job ended with an exception that it should not have let out."""

    error: BaseException


class NoThreadsError(StoreError):
    """This machine lets us have no thread at all."""


class Pool(Generic[_T]):
    """Threads that run jobs in the order of `submit` and put their results into one queue."""

    def __init__(self, name: str, threads: int, results: queue.SimpleQueue[_T | Crash]) -> None:
        """Start no thread yet: the first `threads` jobs do.

        Args:
            name: of the threads, for who looks at them.
            threads: at most this many.
            results: takes what jobs return, and a `Crash` for what they raise.
        """
        self._name = name
        self._most = threads
        self._jobs: queue.SimpleQueue[Callable[[], _T] | None] = queue.SimpleQueue()
        self._results = results
        self._threads: list[threading.Thread] = []
        self.pending = 0
        """Jobs submitted whose results were not yet taken: the taker counts down."""

    def submit(self, job: Callable[[], _T]) -> None:
        """Have `job` run by a thread.

        Raises:
            NoThreadsError: there is none. Where there are some, and no more are to be had, those
                have to do.
        """
        self.pending += 1
        self._jobs.put(job)
        if len(self._threads) < min(self._most, self.pending):
            number = len(self._threads) + 1
            thread = threading.Thread(target=self._work, name=f"{self._name}-{number}", daemon=True)
            self._threads.append(thread)  # first: a signal may come while it starts
            try:
                thread.start()
            except RuntimeError as error:
                self._threads.pop()
                if not self._threads:
                    raise NoThreadsError(
                        "cannot start a thread",
                        hint="raise the limit of processes (ulimit -u, or of the container)",
                    ) from error
                self._most = len(self._threads)

    def close(self, *, deadline: float) -> bool:
        """End the threads when their jobs are done; whether they all were by `deadline`.

        Args:
            deadline: on the clock of `time.monotonic`.
        """
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            with suppress(RuntimeError):  # a signal came while it started; it ends like the others
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                result: _T | Crash = job()
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits for it
                result = Crash(error)
            self._results.put(result)


def next_result(results: queue.SimpleQueue[_T]) -> _T:
    """Wait for a result, in the main thread too, whose signals have to be heard.

    One that comes between Python's last look at signals and the system's wait would be heard when
    that ends; so it ends now and then.
    """
    while True:
        with suppress(queue.Empty):
            return results.get(timeout=_LOOK_UP)
