"""Until when a connection has to stand, and calls that must be over by then. Knows no sockets.

The system looks names up for as long as its resolvers are silent, which may be minutes, and
cannot be stopped. So that is done in a thread of its own, which is left behind when time is over.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from nixfetch.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


class Deadline:
    """The time in which a connection has to stand."""

    def __init__(
        self, seconds: float | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin now.

        Args:
            seconds: until it is over; None: it never is.
            clock: in seconds.
        """
        self._seconds = seconds
        self._clock = clock
        self._end = math.inf if seconds is None else clock() + seconds

    @property
    def left(self) -> float | None:
        """Seconds left, more than 0; None: without end.

        Raises:
            TransportError: there are none.
        """
        if self._end == math.inf:
            return None
        left = self._end - self._clock()
        if left <= 0:
            raise self.over()
        return left

    def over(self) -> TransportError:
        """What to raise then."""
        return TransportError(
            "cannot connect", retryable=True, reason="timed out", seconds=self._seconds
        )


def in_time(job: Callable[[], _T], deadline: Deadline) -> _T:
    """What `job` returns, if it does by then; it may go on afterwards, and nobody hears of it.

    Raises:
        TransportError: it does not.
        What `job` raises.
    """
    ended: queue.SimpleQueue[tuple[_T] | BaseException] = queue.SimpleQueue()

    def work() -> None:
        try:
            ended.put((job(),))
        except BaseException as error:  # noqa: BLE001 - raised by who waits
            ended.put(error)

    try:
        threading.Thread(target=work, name="nixfetch-name", daemon=True).start()
    except RuntimeError:  # there are no more threads: then it takes as long as it takes
        return job()
    try:
        outcome = ended.get(timeout=deadline.left)
    except queue.Empty:
        raise deadline.over() from None
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome[0]
