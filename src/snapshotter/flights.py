"""Work that several threads want at the same time: one does it, the others wait for how it ends."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import nixfetch

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

LOOK = 0.1  # seconds between two looks whether somebody still waits for us


def check_cancelled(cancelled: Callable[[], bool]) -> None:
    """Raise `CancelledError` when `cancelled` says so."""
    if cancelled():
        raise nixfetch.CancelledError("nobody waits for the store paths of a layer any more")


class _Flight:
    """One fetch that is on its way, and how it ended."""

    def __init__(self) -> None:
        self.landed = threading.Event()
        self.error: BaseException | None = None


class Flights:
    """Who fetches what: the first one does, the others wait. Safe to share among threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flying: dict[Hashable, _Flight] = {}

    @contextmanager
    def joining(self, what: Hashable, cancelled: Callable[[], bool]) -> Iterator[bool]:
        """Be the one who fetches `what` (True), or wait until that is done (False).

        Raises:
            CancelledError: `cancelled` said so.
            NixfetchError: why the other one failed.
        """
        with self._lock:
            flight = self._flying.get(what)
            ours = flight is None
            if flight is None:
                flight = self._flying[what] = _Flight()
        if not ours:
            self._wait(flight, cancelled)
            yield False
            return
        try:
            yield True
        except BaseException as error:
            flight.error = error
            raise
        finally:
            with self._lock:
                del self._flying[what]
            flight.landed.set()

    def _wait(self, flight: _Flight, cancelled: Callable[[], bool]) -> None:
        while not flight.landed.wait(LOOK):
            check_cancelled(cancelled)
        error = flight.error
        if isinstance(error, nixfetch.FetchFailedError):
            raise nixfetch.FetchFailedError(error.report) from error
        # Whatever else ended it, a cancellation for one, need not end us: we try it ourselves.
