"""A closure: the walk over narinfos, the NARs and their registration, all at once.

    wanted ──> [lookups] ──trusted──> largest first ──> [unpackers] ──finished──> [settler]
      ^            │                                        │                        │
      └─references─┘                                        └── one queue of results ┴─> here

The calling thread decides everything: it alone walks the closure, starts jobs, writes the
report and calls `on_event`. Threads look up narinfos, unpack NARs, and one settles what is
finished; they share the store, the caches and nothing else, and answer through one queue.
Nothing waits on anything but that queue, so there is no order of locks to keep.

Other processes may fetch into the same store. Who makes a path valid holds its lock; a path that
somebody else has is set aside and looked at again from time to time, and no thread waits for it.

No NAR is asked for before its narinfo is trusted: `Found` exists only for a `Trusted` one.
More unpackers than `jobs` wait for the first bytes of their bodies, which hides latency; at
most `jobs` decode and write, since more decoders than cores only push each other out of the
caches of the processor.
"""

from __future__ import annotations

import heapq
import logging
import os
import queue
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from nixfetch.errors import NixfetchError, StoreError
from nixfetch.fetch import progress
from nixfetch.fetch.kept import Kept
from nixfetch.fetch.path import Gauge, Unpacked, unpack
from nixfetch.fetch.pool import Crash, Pool
from nixfetch.fetch.report import PathReport, Report, Status
from nixfetch.plan.closure import Closure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nixfetch.cache.group import CacheGroup, Found
    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import TrustPolicy
    from nixfetch.store.local import LocalStore

_log = logging.getLogger(__name__)
LOOKUPS = 24  # narinfos asked for at a time
_AHEAD = 6  # NARs beyond `jobs` whose first bytes are waited for
_PATIENCE = 2.0  # seconds that an interrupted run waits for its threads
_POLL = 0.05  # seconds between looks at what other processes are fetching
_REST = 60.0  # seconds that a finished run waits for them; they have nothing left to do


class FetchFailedError(NixfetchError):
    """Some paths were not had; the rest is done.

    Attributes:
        report: what became of each path; `Report.failures` are the reasons.
        exit_code: of the gravest reason.
    """

    def __init__(self, report: Report) -> None:
        gravest = min((path for path in report.failures if path.error is not None), key=_gravity)
        assert gravest.error is not None
        super().__init__("some paths were not fetched", failed=len(report.failures))
        self.report = report
        self.exit_code = gravest.error.exit_code


class NotEnoughSpaceError(StoreError):
    """What is missing does not fit on the disk of the store."""


class MissingReferencesError(StoreError):
    """A path is whole, but what it refers to is not valid in the store."""


class _Cancelled(Exception):  # noqa: N818 - no error: the run is over
    """Raised in a worker when nobody wants its work any more."""


@dataclass(frozen=True, slots=True)
class _LookedUp:
    path: StorePath
    found: Found


@dataclass(frozen=True, slots=True)
class _Lost:
    path: StorePath
    error: NixfetchError


@dataclass(frozen=True, slots=True)
class _Finished:
    path: StorePath
    unpacked: Unpacked


@dataclass(frozen=True, slots=True)
class _Settled:
    paths: list[StorePath]


_Result: TypeAlias = _LookedUp | _Lost | _Finished | _Settled | progress.Started | progress.Advanced


def fetch_closure(
    paths: Iterable[StorePath],
    *,
    caches: CacheGroup,
    policy: TrustPolicy,
    store: LocalStore,
    jobs: int | None = None,
    whole: bool = True,
    dry_run: bool = False,
    min_free: int = 0,
    on_event: Callable[[progress.Event], None] = lambda _: None,
) -> Report:
    """Make `paths` and all that they refer to valid in `store`.

    Args:
        paths: what to fetch.
        caches: where from.
        policy: whom to believe.
        store: where to.
        jobs: NARs decoded and unpacked at a time; as many as there are cores by default.
        whole: False for `paths` alone; what they refer to must be valid, or be among them.
        dry_run: walk the closure, fetch nothing.
        min_free: bytes that are to stay free on the disk of the store.
        on_event: told of what happens, in the calling thread.

    Returns:
        What became of each path; all are valid (or, in a dry run, could be had).

    Raises:
        FetchFailedError: some paths were not had; the others are valid, but for those that
            refer to the failed ones.
        StoreError: this machine cannot go on. What was valid stays valid.
        KeyboardInterrupt, or what `on_event` raises: the same.
    """
    run = _Run(
        paths,
        caches=caches,
        policy=policy,
        store=store,
        jobs=jobs or os.cpu_count() or 1,
        whole=whole,
        dry_run=dry_run,
        min_free=min_free,
        on_event=on_event,
    )
    report = run.go()
    if report.failures:
        raise FetchFailedError(report)
    return report


class _Run:
    def __init__(
        self,
        paths: Iterable[StorePath],
        *,
        caches: CacheGroup,
        policy: TrustPolicy,
        store: LocalStore,
        jobs: int,
        whole: bool,
        dry_run: bool,
        min_free: int,
        on_event: Callable[[progress.Event], None],
    ) -> None:
        self._caches, self._policy, self._store = caches, policy, store
        self._whole, self._dry_run, self._on_event = whole, dry_run, on_event
        asked = tuple(dict.fromkeys(paths))
        self._report = Report(store=str(store.root), requested=asked)
        self._asked = frozenset(asked)
        self._closure = Closure(asked)
        self._results: queue.SimpleQueue[_Result | Crash] = queue.SimpleQueue()
        self._lookups: Pool[_Result] = Pool("nixfetch-lookup", LOOKUPS, self._results)
        self._unpackers: Pool[_Result] = Pool("nixfetch-unpack", jobs + _AHEAD, self._results)
        self._settler: Pool[_Result] = Pool("nixfetch-settle", 1, self._results)
        self._decoding = threading.Semaphore(jobs)
        self._cancelled = threading.Event()
        self._queue: list[tuple[int, int, Found]] = []  # trusted NARs, the largest first
        self._most = jobs + _AHEAD
        self._elsewhere: dict[StorePath, Found] = {}  # paths that other processes are fetching
        self._order = 0  # of coming into the queue, among NARs of the same size
        self._needed = 0  # bytes of all NARs that are to be unpacked
        self._looked = 0.0  # when we last looked at those
        self._room = store.free_space() - min_free  # bytes
        self._kept = Kept(self._room)
        self._unsettled = 0  # finished since the last settling began
        self._walked = False

    def go(self) -> Report:
        begin = time.monotonic()
        clean = False
        try:
            self._walk()
            while self._is_busy():
                for result in self._take():
                    self._handle(result)
                self._walk()
                self._look_elsewhere()
                self._start_unpacking()
                self._start_settling()
            clean = True
        finally:
            self._cancelled.set()
            # One deadline for all: a hundred stalled threads take no longer than one.
            deadline = time.monotonic() + (_REST if clean else _PATIENCE)
            for pool in (self._lookups, self._unpackers, self._settler):
                pool.close(deadline=deadline)
        self._judge_waiting()
        self._report.seconds = time.monotonic() - begin
        return self._report

    def _is_busy(self) -> bool:
        pools = (self._lookups, self._unpackers, self._settler)
        return any(pool.pending for pool in pools) or bool(self._elsewhere)

    def _take(self) -> Iterator[_Result]:
        """Results: one, waited for, and all that lie there by then."""
        try:
            yield self._checked(self._results.get(timeout=_POLL if self._elsewhere else None))
        except queue.Empty:
            return
        while not self._results.empty():
            yield self._checked(self._results.get())

    def _checked(self, result: _Result | Crash) -> _Result:
        if isinstance(result, Crash):
            raise result.error
        return result

    # What the walk wants.

    def _walk(self) -> None:
        while fresh := self._closure.wanted():
            if not self._whole:
                fresh = [path for path in fresh if path in self._asked]
            present = self._store.hold(fresh)
            for path in fresh:
                if path in present:
                    self._closure.learn(path, ())
                    self._report.paths[path] = PathReport(path=path, status=Status.PRESENT)
                    self._on_event(progress.Present(path))
                else:
                    self._lookups.submit(partial(self._look_up, path))
        if not self._walked and not self._lookups.pending:
            self._walked = True
            self._on_event(self._totals())

    def _totals(self) -> progress.Walked:
        wanted = [path for path in self._report.paths.values() if path.nar_size is not None]
        return progress.Walked(
            paths=len(self._report.paths),
            file_size=sum(path.file_size or path.nar_size or 0 for path in wanted),
            nar_size=sum(path.nar_size or 0 for path in wanted),
        )

    # What comes back.

    def _handle(self, result: _Result) -> None:
        match result:
            case _LookedUp(path, found):
                self._lookups.pending -= 1
                self._looked_up(path, found)
            case _Finished(path, unpacked):
                self._unpackers.pending -= 1
                self._finished(path, unpacked)
            case _Settled(paths):
                self._settler.pending -= 1
                self._settled(paths)
            case _Lost(path, error):
                pool = self._unpackers if path in self._report.paths else self._lookups
                pool.pending -= 1
                self._lost(path, error)
            case progress.Advanced(_, downloaded, unpacked_bytes):
                self._report.bytes_downloaded += downloaded
                self._report.bytes_unpacked += unpacked_bytes
                self._on_event(result)
            case progress.Started():
                self._on_event(result)

    def _looked_up(self, path: StorePath, found: Found) -> None:
        info = found.trusted.info
        self._closure.learn(path, info.references)
        self._report.paths[path] = PathReport(
            path=path,
            status=Status.WANTED,
            cache=found.cache.url,
            signed_by=found.trusted.signed_by,
            content_addressed=found.trusted.content_addressed,
            nar_size=info.nar_size,
            file_size=info.file_size,
        )
        self._on_event(progress.Found(path, info.file_size, info.nar_size))
        if not self._whole and (lacking := self._lacking(path)):
            self._fail_for_references(self._report.paths[path], lacking)
        elif not self._dry_run:
            self._want(found)
            self._check_space(info.nar_size)

    def _want(self, found: Found) -> None:
        self._order += 1
        heapq.heappush(self._queue, (-found.trusted.info.nar_size, self._order, found))

    def _check_space(self, nar_size: int) -> None:
        self._needed += nar_size
        self._kept.need(nar_size)
        if self._needed > self._room:
            raise NotEnoughSpaceError(
                "no space left on device for what is missing",
                hint="free some space (`nixfetch gc`), or choose another disk with --store",
                store=self._report.store,
                needed=self._needed,
                available=max(0, self._room),
            )

    def _finished(self, path: StorePath, unpacked: Unpacked) -> None:
        found = unpacked.found
        entry = self._report.paths[path]
        entry.cache = found.cache.url
        entry.signed_by = found.trusted.signed_by
        entry.content_addressed = found.trusted.content_addressed
        entry.file_size, entry.nar_size = found.trusted.info.file_size, found.trusted.info.nar_size
        entry.seconds, entry.attempts = unpacked.seconds, unpacked.attempts
        self._report.bytes_saved += unpacked.saved
        if unpacked.kept:
            self._kept.keep(found)
            if entry.status is Status.FETCHED:  # settled along with others, before we heard of it
                self._kept.settle([path])
        # Another cache than the first may have vouched for other references.
        self._closure.learn(path, found.trusted.info.references)
        self._unsettled += 1

    def _settled(self, paths: list[StorePath]) -> None:
        self._kept.settle(paths)
        for path in paths:
            entry = self._report.paths[path]
            entry.status = Status.FETCHED
            _log.info("fetched %s from %s, %s", path, entry.cache, entry.vouched_for)
            self._on_event(progress.Fetched(path, entry.nar_size or 0))

    def _lost(self, path: StorePath, error: NixfetchError) -> None:
        if isinstance(error, StoreError):
            raise error  # the next path would fare no better
        chain = self._closure.chain(path)
        if len(chain) > 1:
            error.facts.setdefault("needed_by", [str(link) for link in chain[:-1]])
        self._closure.learn(path, ())
        self._store.unlock(path)  # somebody else may have better luck
        entry = self._report.paths.setdefault(path, PathReport(path=path, status=Status.FAILED))
        entry.status, entry.error = Status.FAILED, error
        self._on_event(progress.Failed(path, error))

    def _judge_waiting(self) -> None:
        """What is finished and not valid at the end lacks a reference."""
        if self._dry_run:
            return
        # References first: a path fails for what it refers to, and that for what it refers to.
        for path in self._closure.order():  # a circle is an error of its own
            entry = self._report.paths.get(path)
            if entry is None or entry.status is not Status.WANTED:
                continue
            self._fail_for_references(entry, self._lacking(path))

    def _lacking(self, path: StorePath) -> list[StorePath]:
        """What `path` refers to, and is neither valid nor, without the closure, asked for."""
        references = set(self._closure.references(path))
        if self._walked or self._whole:
            return sorted(references - self._store.valid(references))
        return sorted(references - self._asked - self._store.valid(references))

    def _fail_for_references(self, entry: PathReport, lacking: list[StorePath]) -> None:
        causes = [
            failed.error
            for path in lacking
            if (failed := self._report.paths.get(path)) and failed.error
        ]
        error: NixfetchError = MissingReferencesError(
            "references are not valid in the store",
            hint=None if causes else "fetch the whole closure: leave out --no-closure",
            path=entry.path,
            references=[str(path) for path in lacking],
        )
        if causes:  # not this machine's fault: what failed below says how grave it is
            error.exit_code = min(causes, key=_family).exit_code
        entry.status, entry.error = Status.FAILED, error
        self._on_event(progress.Failed(entry.path, error))

    # Jobs. `_start_…` run here; `_look_up`, `_unpack`, `_settle` in threads.

    def _start_unpacking(self) -> None:
        while self._queue and self._unpackers.pending < self._most:
            _, _, found = heapq.heappop(self._queue)
            path = found.trusted.info.path
            if not self._store.try_lock(path):
                self._elsewhere[path] = found
            elif self._store.notice([path]):  # somebody was faster, after we had looked
                self._arrived(path)
            else:
                self._unpackers.submit(partial(self._unpack, found))

    def _look_elsewhere(self) -> None:
        """See what became of the paths that other processes are fetching."""
        if not self._elsewhere or time.monotonic() < self._looked + _POLL:
            return
        self._looked = time.monotonic()
        for path in self._store.notice(self._elsewhere.keys()):
            self._arrived(path)
        free = [path for path in self._elsewhere if self._store.try_lock(path)]
        for path in free:
            self._want(self._elsewhere.pop(path))

    def _arrived(self, path: StorePath) -> None:
        """Another process made `path` valid."""
        self._elsewhere.pop(path, None)
        self._store.unlock(path)
        self._report.paths[path].status = Status.PRESENT
        self._unsettled += 1  # what waited for it may settle now
        self._on_event(progress.Present(path))

    def _start_settling(self) -> None:
        if self._unsettled and not self._settler.pending:
            self._unsettled = 0
            self._settler.submit(self._settle)

    def _look_up(self, path: StorePath) -> _Result:
        self._checkpoint()
        try:
            return _LookedUp(path, self._caches.find(path, self._policy))
        except NixfetchError as error:
            return _Lost(path, error)

    def _unpack(self, found: Found) -> _Result:
        self._checkpoint()
        path = found.trusted.info.path
        slot = _Slot(self._decoding)

        def checkpoint() -> None:
            slot.take()  # may wait, for so long that the run is over
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
                pausing=slot.give,
            )
        except NixfetchError as error:
            return _Lost(path, error)
        finally:
            slot.give()
        return _Finished(path, unpacked)

    def _settle(self) -> _Result:
        return _Settled(self._store.settle())

    def _checkpoint(self) -> None:
        if self._cancelled.is_set():
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


_GRAVEST_FIRST = {code: rank for rank, code in enumerate((6, 4, 5, 3))}


def _family(error: NixfetchError) -> int:
    return _GRAVEST_FIRST.get(error.exit_code, len(_GRAVEST_FIRST))


def _gravity(path: PathReport) -> int:
    assert path.error is not None
    return _family(path.error)
