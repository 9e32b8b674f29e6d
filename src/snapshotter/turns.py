"""Who is at work on a name: one thread at a time, the others wait their turn.

Knows nothing of what the names are of.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import nixfetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOOK = 0.25  # seconds between looks whether somebody who waits has given up


class Turns:
    """Names that are being worked on. Safe to share among threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy: set[str] = set()

    @contextmanager
    def taking(self, name: str, cancelled: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Have `name` for oneself.

        Args:
            name: of what is worked on.
            cancelled: whether nobody wants it any more.

        Raises:
            CancelledError: `cancelled` said so while it was another's turn.
        """
        with self._changed:
            while name in self._busy:
                if cancelled():
                    raise nixfetch.CancelledError("caller has given up", waiting_for=name)
                self._changed.wait(LOOK)
            self._busy.add(name)
        try:
            yield
        finally:
            with self._changed:
                self._busy.discard(name)
                self._changed.notify_all()
