"""A closure: the walk over narinfos, the NARs and their registration, all at once.

    wanted ──> [lookups] ──trusted──> largest first ──> [unpackers] ──finished──> [settler]
      ^            │                                        │                        │
      └─references─┘                                        └── one queue of results ┴─> here

The calling thread decides everything: it alone walks the closure, starts `jobs`, writes the
report and calls `on_event`. Threads look up narinfos, unpack NARs, and one settles what is
finished; they share the store, the caches and nothing else, and answer through one queue.
Nothing waits on anything but that queue, so there is no order of locks to keep.

Other processes may fetch into the same store: `rights` knows which paths they have.

No NAR is asked for before its narinfo is trusted: `Found` exists only for a `Trusted` one.
"""

from __future__ import annotations

import heapq
import logging
import os
import time
from typing import TYPE_CHECKING

from nixfetch.errors import NixfetchError, StoreError
from nixfetch.fetch import progress
from nixfetch.fetch.jobs import Finished, Jobs, LookedUp, Lost, Settled
from nixfetch.fetch.kept import Kept
from nixfetch.fetch.report import PathReport, Report, Status
from nixfetch.fetch.rights import POLL, Right, Rights
from nixfetch.fetch.space import Space
from nixfetch.plan.closure import Closure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nixfetch.cache.group import CacheGroup, Found
    from nixfetch.fetch.jobs import Result
    from nixfetch.fetch.path import Unpacked
    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import TrustPolicy
    from nixfetch.store.local import LocalStore

_log = logging.getLogger(__name__)
_TICK = 0.2  # seconds: by then `cancelled` is asked again, and a signal is seen that came just
# before the wait began, which no result would end


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


class CancelledError(NixfetchError):
    """The run was stopped by who began it."""


class MissingReferencesError(StoreError):
    """A path is whole, but what it refers to is not valid in the store."""


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
    cancelled: Callable[[], bool] = lambda: False,
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
        cancelled: asked several times a second, in the calling thread: whether to give up. It
            may be how another thread stops the run, as by `threading.Event.is_set`.

    Returns:
        What became of each path; all are valid (or, in a dry run, could be had).

    Raises:
        FetchFailedError: some paths were not had; the others are valid, but for those that
            refer to the failed ones.
        StoreError: this machine cannot go on. What was valid stays valid; nothing else is left
            once `store` is closed.
        CancelledError: `cancelled` said so; the same, within seconds whatever the caches do.
        KeyboardInterrupt, or what `on_event` or `cancelled` raises: the same.
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
        cancelled=cancelled,
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
        cancelled: Callable[[], bool],
    ) -> None:
        self._store = store
        self._whole, self._dry_run = whole, dry_run
        self._on_event, self._cancelled = on_event, cancelled
        asked = tuple(dict.fromkeys(paths))
        self._report = Report(store=str(store.root), requested=asked)
        self._asked = frozenset(asked)
        self._closure = Closure(asked)
        self._jobs = Jobs(caches=caches, policy=policy, store=store, decoders=jobs)
        self._queue: list[tuple[int, int, Found]] = []  # trusted NARs, the largest first
        self._order = 0  # of coming into the queue, among NARs of the same size
        self._rights = Rights(store)
        self._space = Space(store, min_free=min_free)
        self._kept = Kept(self._space.room)
        self._unsettled = 0  # finished since the last settling began
        self._walked = False

    def go(self) -> Report:
        begin = time.monotonic()
        clean = False
        try:
            self._walk()
            while self._jobs.are_pending or self._rights:
                for result in self._jobs.take(POLL if self._rights else _TICK):
                    self._handle(result)
                if self._cancelled():
                    raise CancelledError("fetch was cancelled")
                self._walk()
                self._look_elsewhere()
                self._start_unpacking()
                self._start_settling()
            clean = True
        finally:
            self._jobs.close(clean=clean)
        self._judge_waiting()
        self._report.seconds = time.monotonic() - begin
        return self._report

    # What the walk wants.

    def _walk(self) -> None:
        while fresh := self._closure.wanted():
            if not self._whole:
                fresh = [path for path in fresh if path in self._asked]
            present = self._store.hold(fresh)
            gone = self._store.gone(present)
            for path in fresh:
                if path in gone:
                    self._fail(path, gone[path])
                elif path in present:
                    self._closure.learn(path, ())
                    self._report.paths[path] = PathReport(path=path, status=Status.PRESENT)
                    self._on_event(progress.Present(path))
                else:
                    self._jobs.look_up(path)
        if self._jobs.are_looking:
            return
        self._space.check()
        if not self._walked:
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

    def _handle(self, result: Result) -> None:
        match result:
            case LookedUp(path, found):
                self._looked_up(path, found)
            case Finished(path, unpacked):
                self._finished(path, unpacked)
            case Settled(paths):
                self._settled(paths)
            case Lost(path, error):
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
            self._space.need(info.nar_size)
            self._kept.need(info.nar_size)

    def _want(self, found: Found) -> None:
        self._order += 1
        heapq.heappush(self._queue, (-found.trusted.info.nar_size, self._order, found))

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
        self._rights.finished(path)
        if entry.status is Status.FETCHED:  # settled along with others, before we heard of it
            self._kept.settle([path])
            self._rights.settled([path])
        # Another cache than the first may have vouched for other references.
        self._closure.learn(path, found.trusted.info.references)
        self._unsettled += 1

    def _settled(self, paths: Iterable[StorePath]) -> None:
        mine = [path for path in paths if path in self._report.paths]  # not an earlier run's
        self._kept.settle(mine)
        self._rights.settled(mine)
        for path in mine:
            entry = self._report.paths[path]
            entry.status = Status.FETCHED
            _log.info("fetched %s from %s, %s", path, entry.cache, entry.vouched_for)
            self._on_event(progress.Fetched(path, entry.nar_size or 0))

    def _lost(self, path: StorePath, error: NixfetchError) -> None:
        if isinstance(error, StoreError):
            raise error  # the next path would fare no better
        self._rights.give(path)
        self._fail(path, error)

    def _fail(self, path: StorePath, error: NixfetchError) -> None:
        chain = self._closure.chain(path)
        if len(chain) > 1:
            error.facts.setdefault("needed_by", [str(link) for link in chain[:-1]])
        self._closure.learn(path, ())
        entry = self._report.paths.setdefault(path, PathReport(path=path, status=Status.FAILED))
        entry.status, entry.error = Status.FAILED, error
        self._on_event(progress.Failed(path, error))

    def _judge_waiting(self) -> None:
        """What is finished and not valid at the end lacks a reference."""
        if self._dry_run:
            return
        waiting = [
            path.path for path in self._report.paths.values() if path.status is Status.WANTED
        ]
        if waiting:  # unless another run of this process, in the same store, has settled it
            self._settled(self._store.valid(waiting))
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

    # What is started.

    def _start_unpacking(self) -> None:
        while self._queue and self._jobs.have_room and not self._space.is_short:
            _, _, found = heapq.heappop(self._queue)
            match self._rights.take(found):
                case Right.OURS:
                    self._jobs.unpack(found)
                case Right.NEEDLESS:
                    self._arrived(found.trusted.info.path)
                case Right.THEIRS:
                    pass

    def _look_elsewhere(self) -> None:
        """See what became of the paths that other processes are fetching."""
        valid, free = self._rights.look(idle=not self._jobs.are_pending)
        for path in valid:
            self._arrived(path)
        for found in free:
            self._want(found)

    def _arrived(self, path: StorePath) -> None:
        """Another process made `path` valid."""
        self._report.paths[path].status = Status.PRESENT
        self._unsettled += 1  # what waited for it may settle now
        self._on_event(progress.Present(path))

    def _start_settling(self) -> None:
        if self._unsettled and not self._jobs.are_settling:
            self._unsettled = 0
            self._jobs.settle()


_GRAVEST_FIRST = {code: rank for rank, code in enumerate((6, 4, 5, 3))}


def _family(error: NixfetchError) -> int:
    return _GRAVEST_FIRST.get(error.exit_code, len(_GRAVEST_FIRST))


def _gravity(path: PathReport) -> int:
    assert path.error is not None
    return _family(path.error)
