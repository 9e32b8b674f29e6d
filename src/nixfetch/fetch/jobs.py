"""The jobs of a run, and the threads that do them; what comes of each is a value in one queue.

Knows what can be done for one path, and no closure: what is to be done comes in as calls.

More threads than `decoders` wait for the first bytes of NARs, which hides latency; at most that
many decode and write, since more decoders than cores only push each other out of the caches of
the processor.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from nixfetch.errors import NixfetchError
from nixfetch.fetch import progress
from nixfetch.fetch.path import Gauge, Unpacked, unpack
from nixfetch.fetch.pool import Crash, Pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nixfetch.cache.group import CacheGroup, Found
    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import TrustPolicy
    from nixfetch.store.local import LocalStore

LOOKUPS = 24  # narinfos asked for at a time
_AHEAD = 6  # NARs beyond `decoders` whose first bytes are waited for
_PATIENCE = 2.0  # seconds that an interrupted run waits for its threads
_LOOKING = 0.2  # seconds that it waits for those that look up: they hold nothing
_REST = 60.0  # seconds that a finished run waits for them; they have nothing left to do


class _Cancelled(Exception):  # noqa: N818 - no error: the run is over
    """Raised in a thread when nobody wants its work any more."""


@dataclass(frozen=True, slots=True)
class LookedUp:
    """A cache has a path."""

    path: StorePath
    found: Found


@dataclass(frozen=True, slots=True)
class Lost:
    """A path will not be had."""

    path: StorePath
    error: NixfetchError
    looking: bool
    """Whether it was looked up; else it was unpacked."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The tree of a path is finished."""

    path: StorePath
    unpacked: Unpacked


@dataclass(frozen=True, slots=True)
class Settled:
    """Paths are valid now."""

    paths: list[StorePath]


Result: TypeAlias = LookedUp | Lost | Finished | Settled | progress.Started | progress.Advanced


class Jobs:
    """What one thread has others do. Its methods are for that thread."""

    def __init__(
        self, *, caches: CacheGroup, policy: TrustPolicy, store: LocalStore, decoders: int
    ) -> None:
        """Start no thread yet.

        Args:
            caches: where from.
            policy: whom to believe.
            store: where to.
            decoders: NARs decoded and unpacked at a time.
        """
        self._caches, self._policy, self._store = caches, policy, store
        self._results: queue.SimpleQueue[Result | Crash] = queue.SimpleQueue()
        self._lookups: Pool[Result] = Pool("nixfetch-lookup", LOOKUPS, self._results)
        self._most = decoders + _AHEAD
        self._unpackers: Pool[Result] = Pool("nixfetch-unpack", self._most, self._results)
        self._settler: Pool[Result] = Pool("nixfetch-settle", 1, self._results)
        self._decoding = threading.Semaphore(decoders)
        self._over = threading.Event()

    # To be done.

    def look_up(self, path: StorePath) -> None:
        """Ask the caches for `path`: `LookedUp` or `Lost`."""
        self._lookups.submit(partial(self._look_up, path))

    def unpack(self, found: Found) -> None:
        """Fetch a NAR into staging: `Started` and `Advanced` many times, `Finished` or `Lost`."""
        self._unpackers.submit(partial(self._unpack, found))

    def settle(self) -> None:
        """Make valid what can be: `Settled`."""
        self._settler.submit(self._settle)

    # What is going on.

    @property
    def are_pending(self) -> bool:
        """Whether results are to come."""
        return any(pool.pending for pool in (self._lookups, self._unpackers, self._settler))

    @property
    def are_looking(self) -> bool:
        """Whether a path is being looked up."""
        return self._lookups.pending > 0

    @property
    def have_room(self) -> bool:
        """Whether one more NAR would be begun at once."""
        return self._unpackers.pending < self._most

    @property
    def are_settling(self) -> bool:
        """Whether something becomes valid right now."""
        return self._settler.pending > 0

    # What came of it.

    def take(self, seconds: float) -> Iterator[Result]:
        """Results: one, waited for, and all that lie there by then; none when time is over.

        Raises:
            What a job let out: a mistake of ours, or a store that cannot go on.
        """
        try:
            yield self._taken(self._results.get(timeout=seconds))
        except queue.Empty:
            return
        while not self._results.empty():
            yield self._taken(self._results.get())

    def _taken(self, result: Result | Crash) -> Result:
        match result:
            case Crash(error):
                raise error
            case LookedUp() | Lost(looking=True):
                self._lookups.pending -= 1
            case Finished() | Lost():
                self._unpackers.pending -= 1
            case Settled():
                self._settler.pending -= 1
            case progress.Started() | progress.Advanced():
                pass
        return result

    def close(self, *, clean: bool) -> None:
        """End the threads.

        Args:
            clean: all is done. Else what is being done is given up, and who is waiting for a
                remote is not waited for.
        """
        self._over.set()
        # One deadline for all of a kind: a hundred stalled threads take no longer than one.
        now = time.monotonic()
        self._lookups.close(deadline=now + (_REST if clean else _LOOKING))
        for pool in (self._unpackers, self._settler):
            pool.close(deadline=now + (_REST if clean else _PATIENCE))

    # In threads.

    def _look_up(self, path: StorePath) -> Result:
        self._checkpoint()
        try:
            found = self._caches.find(path, self._policy, pausing=self._checkpoint)
            return LookedUp(path, found)
        except NixfetchError as error:
            return Lost(path, error, looking=True)

    def _unpack(self, found: Found) -> Result:
        self._checkpoint()
        path = found.trusted.info.path
        slot = _Slot(self._decoding)

        def checkpoint() -> None:
            slot.take()  # may wait, for so long that the run is over
            self._checkpoint()

        def pausing() -> None:
            slot.give()
            self._checkpoint()

        def tell(downloaded: int, unpacked: int) -> None:
            self._results.put(progress.Advanced(path, downloaded, unpacked, gauge.spent()))

        gauge = Gauge(tell, now=time.monotonic)

        def started(source: Found) -> None:
            slot.give()
            self._results.put(progress.Started(path, source.cache.url))

        try:
            unpacked = unpack(
                found,
                caches=self._caches,
                policy=self._policy,
                store=self._store,
                gauge=gauge,
                started=started,
                checkpoint=checkpoint,
                pausing=pausing,
            )
        except NixfetchError as error:
            return Lost(path, error, looking=False)
        finally:
            slot.give()
        return Finished(path, unpacked)

    def _settle(self) -> Result:
        return Settled(self._store.settle())

    def _checkpoint(self) -> None:
        if self._over.is_set():
            raise _Cancelled


class _Slot:
    """One place among those that decode: taken at the first bytes, given back at the end."""

    def __init__(self, places: threading.Semaphore) -> None:
        self._places = places
        self._taken = False

    def take(self) -> None:
        if not self._taken:
            self._places.acquire()
            self._taken = True

    def give(self) -> None:
        if self._taken:
            self._taken = False
            self._places.release()
