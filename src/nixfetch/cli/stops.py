"""Signals that end a run: the first one as an exception, so that all is undone on the way out.

From then on they have their default action: a second one ends the process at once.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
def raising_stopped() -> Iterator[None]:
    """Raise `Stopped` in the block when a signal asks to end. For the main thread only.

    Signals that were ignored stay so, as under nohup and for background jobs of a shell.
    After a stop the defaults stay in force; else what was there comes back.
    """
    earlier = {}
    for number in _STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            earlier[number] = signal.signal(number, _stop)
    yield
    for number, handler in earlier.items():
        signal.signal(number, handler)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    for each in _STOPPING:
        if signal.getsignal(each) is _stop:
            signal.signal(each, signal.SIG_DFL)
    raise Stopped(number)
