"""The jobs of a run, and the threads that do them; what comes of each is a value in one queue.

Knows what can be done for one path, and no closure.
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
from nixfetch.fetch.path import Gauge
from nixfetch.fetch.pool import Crash, Pool
from nixfetch.mirror.destination import DestinationError
from nixfetch.mirror.transfer import Copied, Watch, transfer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nixfetch.formats.narinfo import NarInfo
    from nixfetch.formats.storepath import StorePath
    from nixfetch.mirror.destination import Destination
    from nixfetch.mirror.recipe import Recipe
    from nixfetch.mirror.source import Offer, Sources

_LOOKUPS = 24  # narinfos asked for at a time
COPIES = 8  # NARs on their way at a time; each holds a part of an upload, 5 MiB, in memory
_PUBLISHERS = 8  # narinfos written at a time
_PATIENCE = 5.0  # seconds that an interrupted run waits for its threads to abort uploads
_REST = 60.0  # seconds that a finished run waits for them; they have nothing left to do


class _Cancelled(Exception):  # noqa: N818 - no error: the run is over
    """Raised in a thread when nobody wants its work any more."""


@dataclass(frozen=True, slots=True)
class There:
    """The mirror has a path already."""

    path: StorePath
    info: NarInfo


@dataclass(frozen=True, slots=True)
class Offered:
    """A cache has a path, and the mirror has not."""

    path: StorePath
    offer: Offer


@dataclass(frozen=True, slots=True)
class Arrived:
    """The NAR of a path is in the mirror."""

    path: StorePath
    copied: Copied


@dataclass(frozen=True, slots=True)
class Published:
    """The narinfo of a path is in the mirror."""

    path: StorePath


@dataclass(frozen=True, slots=True)
class Lost:
    """A path will not be had."""

    path: StorePath
    error: NixfetchError
    looking: bool
    """Whether it was looked up; else it was copied."""


Result: TypeAlias = (
    There | Offered | Arrived | Published | Lost | progress.Started | progress.Advanced
)


class Work:
    """What one thread has others do. Its methods are for that thread."""

    def __init__(
        self, *, sources: Sources, destination: Destination, recipe: Recipe, copies: int
    ) -> None:
        """Start no thread yet.

        Args:
            sources: where from.
            destination: where to.
            recipe: what to do on the way.
            copies: NARs on their way at a time.
        """
        self._sources, self._destination, self._recipe = sources, destination, recipe
        self._most = copies
        self._results: queue.SimpleQueue[Result | Crash] = queue.SimpleQueue()
        self._lookups: Pool[Result] = Pool("nixfetch-lookup", _LOOKUPS, self._results)
        self._copiers: Pool[Result] = Pool("nixfetch-copy", copies, self._results)
        self._publishers: Pool[Result] = Pool("nixfetch-publish", _PUBLISHERS, self._results)
        self._over = threading.Event()

    def look_up(self, path: StorePath) -> None:
        """Ask the mirror for `path`, then the caches: `There`, `Offered` or `Lost`."""
        self._lookups.submit(partial(self._look_up, path))

    def copy(self, offer: Offer) -> None:
        """Copy a NAR: `Started` and `Advanced` many times, `Arrived` or `Lost`."""
        self._copiers.submit(partial(self._copy, offer))

    def publish(self, path: StorePath, text: bytes) -> None:
        """Write a narinfo: `Published`."""
        self._publishers.submit(partial(self._publish, path, text))

    @property
    def is_pending(self) -> bool:
        """Whether results are to come."""
        return any(pool.pending for pool in (self._lookups, self._copiers, self._publishers))

    @property
    def is_looking(self) -> bool:
        """Whether a path is being looked up."""
        return self._lookups.pending > 0

    @property
    def has_room(self) -> bool:
        """Whether one more copy would be begun at once."""
        return self._copiers.pending < self._most

    def take(self, seconds: float) -> Iterator[Result]:
        """Results: one, waited for, and all that lie there by then; none when time is over.

        Raises:
            What a job let out: a mistake of ours, or a mirror that cannot go on.
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
            case There() | Offered() | Lost(looking=True):
                self._lookups.pending -= 1
            case Arrived() | Lost():
                self._copiers.pending -= 1
            case Published():
                self._publishers.pending -= 1
            case progress.Started() | progress.Advanced():
                pass
        return result

    def close(self, *, clean: bool) -> None:
        """End the threads.

        Args:
            clean: all is done. Else what is being done is given up, and uploads aborted.
        """
        self._over.set()
        deadline = time.monotonic() + (_REST if clean else _PATIENCE)
        for pool in (self._copiers, self._publishers, self._lookups):
            pool.close(deadline=deadline)

    # In threads.

    def _look_up(self, path: StorePath) -> Result:
        self._checkpoint()
        info = self._destination.narinfo(path)
        if info is not None:
            return There(path, info)
        try:
            return Offered(path, self._sources.find(path))
        except NixfetchError as error:
            return Lost(path, error, looking=True)

    def _copy(self, offer: Offer) -> Result:
        self._checkpoint()
        path = offer.info.path

        def tell(downloaded: int, unpacked: int) -> None:
            self._results.put(progress.Advanced(path, downloaded, unpacked, gauge.spent()))

        gauge = Gauge(tell, now=time.monotonic)

        def downloaded(size: int) -> None:
            gauge.downloaded(size)
            gauge.unpacked(0)  # says it now and then

        def started(one: Offer) -> None:
            self._results.put(progress.Started(path, one.cache.url))

        watch = Watch(downloaded, started, self._checkpoint)
        try:
            copied = transfer(
                offer,
                sources=self._sources,
                destination=self._destination,
                recipe=self._recipe,
                watch=watch,
            )
        except DestinationError:
            raise
        except NixfetchError as error:
            return Lost(path, error, looking=False)
        finally:
            gauge.flush()
        return Arrived(path, copied)

    def _publish(self, path: StorePath, text: bytes) -> Result:
        self._checkpoint()
        self._destination.put(f"{path.hash_part}.narinfo", text)
        return Published(path)

    def _checkpoint(self) -> None:
        if self._over.is_set():
            raise _Cancelled
