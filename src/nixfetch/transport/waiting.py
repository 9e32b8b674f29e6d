"""How long a remote has let us wait, and whether that is too long. Knows no sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nixfetch.errors import TransportError

if TYPE_CHECKING:
    from nixfetch.transport.base import Pace

_LEAST = 0.001  # seconds: 0 would mean not to wait at all


class SlowRemoteError(TransportError):
    """Too few bytes came for so much waiting."""


class Waiting:
    """The waiting for one answer, measured by whoever waits."""

    __slots__ = ("_got", "_pace", "_waited")

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._waited = 0.0  # seconds, since `_got` bytes ago
        self._got = 0

    @property
    def left(self) -> float | None:
        """Seconds that may be waited for the next byte."""
        stall = self._pace.stall
        return None if stall is None else max(stall - self._waited, _LEAST)

    def pause(self) -> None:
        """Say that nothing has come for a while. Raises what `Pace.pausing` does."""
        self._pace.pausing()

    def count(self, seconds: float, received: int) -> None:
        """Say that `received` bytes came after `seconds` of waiting; none: that is the end.

        Raises:
            SlowRemoteError: it was too little, retryable.
        """
        stall = self._pace.stall
        if stall is None:
            return
        self._waited += seconds
        self._got += received
        if self._got >= self._pace.slowest * stall:
            self._waited, self._got = 0.0, 0
        elif self._waited >= stall and received:
            raise self.too_long()

    def too_long(self) -> SlowRemoteError:
        """What to raise when `left` is over."""
        problem = "remote is too slow" if self._got else "remote went silent"
        return SlowRemoteError(problem, retryable=True, seconds=self._pace.stall)
