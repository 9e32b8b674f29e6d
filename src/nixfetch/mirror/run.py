"""A closure into a mirror: looked up, copied and published, many paths at a time.

    asked paths -> look up in the mirror ──there──────────────────────────────┐
                          └─> in the caches -> trusted -> NAR copied -> narinfo published
                                                                  when all references are

The calling thread alone decides: it owns the `Closure`, the order and the report, and waits for
nothing but one queue. A narinfo is written after its NAR, and after those of all that it refers
to: at every moment, whatever ends the run, what the mirror has is whole.

What the mirror has is walked as well, by what it says itself: a reference that somebody took out
of it is put back.
"""

from __future__ import annotations

import heapq
import logging
import os
import time
from typing import TYPE_CHECKING

from nixfetch.errors import NixfetchError
from nixfetch.fetch import progress
from nixfetch.fetch.closure import CancelledError
from nixfetch.mirror.destination import DestinationError
from nixfetch.mirror.order import Publication
from nixfetch.mirror.recipe import Recipe
from nixfetch.mirror.report import MirroredPath, MirrorReport, MirrorStatus
from nixfetch.mirror.work import COPIES, Arrived, Lost, Offered, Published, There, Work
from nixfetch.plan.closure import Closure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nixfetch.formats.storepath import StorePath
    from nixfetch.mirror.destination import Destination
    from nixfetch.mirror.source import Offer, Sources
    from nixfetch.mirror.transfer import Copied
    from nixfetch.mirror.work import Result

_log = logging.getLogger(__name__)
_TICK = 0.2  # seconds: by then `cancelled` is asked again
_GRAVEST_FIRST = {code: rank for rank, code in enumerate((6, 4, 5, 3))}  # of exit codes
_MISSING = 3


class MirrorFailedError(NixfetchError):
    """Some paths could not be mirrored; the rest is done.

    Attributes:
        report: what became of each path.
        exit_code: of the gravest reason.
    """

    def __init__(self, report: MirrorReport) -> None:
        super().__init__("some paths were not mirrored", failed=len(report.failures))
        self.report = report
        codes = [path.error.exit_code for path in report.failures if path.error is not None]
        self.exit_code = min(codes, key=_gravity)


class ReferencesLackingError(NixfetchError):
    """The NAR of a path is in the mirror; its narinfo is not, for what it refers to is not."""

    exit_code = _MISSING


class StoppedEarlyError(NixfetchError):
    """The run was told to end before a path was begun."""

    exit_code = _MISSING


def mirror_closure(
    paths: Iterable[StorePath],
    *,
    sources: Sources,
    destination: Destination,
    recipe: Recipe | None = None,
    copies: int | None = None,
    dry_run: bool = False,
    on_event: Callable[[progress.Event], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
    enough: Callable[[], str | None] = lambda: None,
) -> MirrorReport:
    """Have `paths` and all that they refer to in a mirror.

    Args:
        paths: what to copy.
        sources: where from.
        destination: where to.
        recipe: what to do on the way; nothing by default, all stays byte for byte.
        copies: NARs on their way at a time; 8 by default, or as many as there are cores where
            NARs are decoded.
        dry_run: look only, and write nothing.
        on_event: told of what happens, in the calling thread; `Fetched` is a path whose narinfo
            is written.
        cancelled: asked several times a second, in the calling thread: whether to give up.
        enough: asked before each copy: why no more are to be begun, or None. What is on its way
            comes to its end.

    Returns:
        What became of each path; all are in the mirror (or, in a dry run, could be).

    Raises:
        MirrorFailedError: some are not; the others are, but for those that refer to them.
        DestinationError: the mirror cannot go on; has what was done `so_far`. It is whole.
        CancelledError: `cancelled` said so; the same.
        KeyboardInterrupt, or what `on_event` or `cancelled` raises: the same.
    """
    recipe = recipe or Recipe()
    usual = (os.cpu_count() or 1) if recipe.takes_cores else COPIES
    run = _Run(
        paths,
        work=Work(sources=sources, destination=destination, recipe=recipe, copies=copies or usual),
        mirror=destination.url,
        dry_run=dry_run,
        on_event=on_event,
        cancelled=cancelled,
        enough=enough,
    )
    destination.begin(dry_run=dry_run)
    report = run.go()
    if report.failures:
        raise MirrorFailedError(report)
    return report


class _Run:
    def __init__(
        self,
        paths: Iterable[StorePath],
        *,
        work: Work,
        mirror: str,
        dry_run: bool,
        on_event: Callable[[progress.Event], None],
        cancelled: Callable[[], bool],
        enough: Callable[[], str | None],
    ) -> None:
        asked = tuple(dict.fromkeys(paths))
        self._work = work
        self._dry_run = dry_run
        self._on_event, self._cancelled, self._enough = on_event, cancelled, enough
        self._closure = Closure(asked)
        self._order = Publication()
        self._report = MirrorReport(mirror=mirror, requested=asked)
        self._queue: list[tuple[int, int, Offer]] = []  # trusted NARs, the largest first
        self._met = 0
        self._texts: dict[StorePath, bytes] = {}  # of narinfos that wait
        self._walked = False

    def go(self) -> MirrorReport:
        begin = time.monotonic()
        clean = False
        try:
            self._walk()
            while self._work.is_pending:
                for result in self._work.take(_TICK):
                    self._handle(result)
                if self._cancelled():
                    raise CancelledError("mirroring was cancelled")
                self._walk()
                self._start()
            clean = True
        except DestinationError as error:
            self._give_up(error)
            raise
        finally:
            self._report.seconds = time.monotonic() - begin
            self._work.close(clean=clean)
        self._judge()
        return self._report

    def _give_up(self, error: DestinationError) -> None:
        for path in self._report.requested:
            self._report.paths.setdefault(path, MirroredPath(path=path, status=MirrorStatus.WANTED))
        for entry in self._report.those(MirrorStatus.WANTED):
            entry.status, entry.error = MirrorStatus.FAILED, error
        error.so_far = self._report

    def _walk(self) -> None:
        for path in self._closure.wanted():
            self._work.look_up(path)
        if not self._walked and not self._work.is_looking:
            self._walked = True
            self._on_event(self._totals())

    def _totals(self) -> progress.Walked:
        wanted = [
            path
            for path in self._report.paths.values()
            if path.nar_size is not None and path.status is not MirrorStatus.PRESENT
        ]
        return progress.Walked(
            paths=len(self._report.paths),
            file_size=sum(path.file_size or path.nar_size or 0 for path in wanted),
            nar_size=sum(path.nar_size or 0 for path in wanted),
        )

    def _handle(self, result: Result) -> None:
        match result:
            case There(path, info):
                self._closure.learn(path, info.references)
                self._report.paths[path] = MirroredPath(
                    path=path,
                    status=MirrorStatus.PRESENT,
                    nar_size=info.nar_size,
                    file_size=info.file_size,
                )
                self._on_event(progress.Present(path))
                self._release(path)
            case Offered(path, offer):
                self._offered(path, offer)
            case Arrived(path, copied):
                self._arrived(path, copied)
            case Published(path):
                self._published(path)
            case Lost(path, error):
                self._lost(path, error)
            case progress.Advanced(_, downloaded, _):
                self._report.bytes_downloaded += downloaded
                self._on_event(result)
            case progress.Started():
                self._on_event(result)

    def _offered(self, path: StorePath, offer: Offer) -> None:
        info = offer.info
        self._closure.learn(path, info.references)
        self._report.paths[path] = MirroredPath(
            path=path,
            status=MirrorStatus.WANTED,
            cache=offer.cache.url,
            signed_by=offer.trusted.signed_by,
            content_addressed=offer.trusted.content_addressed,
            nar_size=info.nar_size,
            file_size=info.file_size,
        )
        self._on_event(progress.Found(path, info.file_size, info.nar_size))
        if not self._dry_run:
            self._met += 1
            heapq.heappush(self._queue, (-info.nar_size, self._met, offer))

    def _arrived(self, path: StorePath, copied: Copied) -> None:
        entry = self._report.paths[path]
        entry.cache = copied.offer.cache.url
        entry.signed_by = copied.offer.trusted.signed_by
        entry.content_addressed = copied.offer.trusted.content_addressed
        entry.file_size, entry.nar_size = copied.info.file_size, copied.info.nar_size
        entry.sent, entry.attempts, entry.seconds = copied.sent, copied.attempts, copied.seconds
        entry.exact = copied.text == copied.offer.info.raw
        self._report.bytes_sent += copied.sent
        # Another cache than the first may have vouched for other references.
        self._closure.learn(path, copied.info.references)
        self._texts[path] = copied.text
        for ready in self._order.finished(path, copied.info.references):
            self._work.publish(ready, self._texts.pop(ready))

    def _published(self, path: StorePath) -> None:
        entry = self._report.paths[path]
        entry.status = MirrorStatus.COPIED
        _log.info("mirrored %s from %s, %d bytes", path, entry.cache, entry.sent)
        self._on_event(progress.Fetched(path, entry.nar_size or 0))
        self._release(path)

    def _release(self, path: StorePath) -> None:
        """Publish what waited for `path`, which is there now."""
        for ready in self._order.published(path):
            self._work.publish(ready, self._texts.pop(ready))

    def _lost(self, path: StorePath, error: NixfetchError) -> None:
        chain = self._closure.chain(path)
        if len(chain) > 1:
            error.facts.setdefault("needed_by", [str(link) for link in chain[:-1]])
        self._closure.learn(path, ())
        self._fail(path, error)

    def _fail(self, path: StorePath, error: NixfetchError) -> None:
        entry = self._report.paths.setdefault(
            path, MirroredPath(path=path, status=MirrorStatus.FAILED)
        )
        entry.status, entry.error = MirrorStatus.FAILED, error
        self._on_event(progress.Failed(path, error))

    def _start(self) -> None:
        while self._queue and self._work.has_room and self._report.stopped is None:
            self._report.stopped = self._enough()
            if self._report.stopped is None:
                _, _, offer = heapq.heappop(self._queue)
                self._work.copy(offer)

    def _judge(self) -> None:
        """What is not published at the end was not begun, or lacks a reference."""
        if self._dry_run:
            return
        for _, _, offer in self._queue:
            error = StoppedEarlyError("not begun", reason=self._report.stopped)
            self._fail(offer.info.path, error)
        # References first: a path fails for what it refers to, and that for what it refers to.
        for path in self._closure.order():  # a circle is an error of its own
            entry = self._report.paths.get(path)
            if entry is None or entry.status is not MirrorStatus.WANTED:
                continue
            lacking = sorted(
                other for other in self._closure.references(path) if not self._order.has(other)
            )
            self._fail(path, self._lacks(path, lacking))

    def _lacks(self, path: StorePath, lacking: list[StorePath]) -> NixfetchError:
        error = ReferencesLackingError(
            "references are not in the mirror", path=path, references=list(map(str, lacking))
        )
        causes = [
            failed.error.exit_code
            for other in lacking
            if (failed := self._report.paths.get(other)) and failed.error
        ]
        if causes:
            error.exit_code = min(causes, key=_gravity)
        return error


def _gravity(exit_code: int) -> int:
    return _GRAVEST_FIRST.get(exit_code, len(_GRAVEST_FIRST))
