"""How long to wait so that no more bytes come in a second than are wanted.

Knows no clock: the time is an argument.
"""

from __future__ import annotations

BURST = 0.25  # seconds' worth of bytes that may come at once


class Bandwidth:
    """A rate that all downloads share. Not for several threads at once."""

    def __init__(self, rate: float) -> None:
        """Begin with nothing spent.

        Args:
            rate: bytes a second, above 0.
        """
        self._rate = rate
        self._paid = float("-inf")  # until when what has come is within the rate

    def take(self, size: int, *, now: float) -> float:
        """Seconds to wait after `size` bytes have come.

        Args:
            size: bytes.
            now: seconds, monotonic.
        """
        self._paid = max(self._paid, now - BURST) + size / self._rate
        return max(0.0, self._paid - now)
