"""Signals that end a run: the first one as an exception, so that all is undone on the way out.

A second one soon after it is the same one: `timeout` sends it to a process and to its group, and
a terminal's Ctrl-C may come with a supervisor's SIGTERM. A later one ends the process at once.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAME = 0.5  # seconds after the first in which another one is the same; nobody types as fast


class Stopped(KeyboardInterrupt):
    """One of the signals came. No `Exception`: nothing but the frame handles it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def name(self) -> str:
        """Such as SIGTERM."""
        return signal.Signals(self.number).name

    @property
    def exit_code(self) -> int:
        """As a shell reports a process that the signal ended: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


@contextmanager
def raising_stopped(*, now: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Raise `Stopped` in the block when a signal asks to end. For the main thread only.

    Signals that were ignored stay so, as under nohup and for background jobs of a shell.
    After a stop we keep listening, for another one; else what was there comes back.

    Args:
        now: seconds, on a clock that only goes forward.
    """
    listener = _Listener(now)
    earlier = {}
    for number in _STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            earlier[number] = signal.signal(number, listener)
    yield
    for number, handler in earlier.items():
        signal.signal(number, handler)


class _Listener:
    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._first: float | None = None  # when it came

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self._first is None:
            self._first = self._now()
            raise Stopped(number)
        if self._now() - self._first > _SAME:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
