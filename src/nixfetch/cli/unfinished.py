"""The report of a fetch that this machine ended, made of what was told of it. Prints nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nixfetch.fetch.progress import Advanced, Failed, Fetched, Found, Present, Started
from nixfetch.fetch.report import PathReport, Report, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nixfetch.errors import NixfetchError
    from nixfetch.fetch.progress import Event
    from nixfetch.formats.storepath import StorePath


class Unfinished:
    """Learns from events. Who signed a path, and when it began, no event says."""

    def __init__(
        self,
        store: str,
        requested: Iterable[StorePath],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._report = Report(store=store, requested=tuple(requested))
        self._now = now
        self._begin = now()

    def learn(self, event: Event) -> None:
        """Take note of `event`."""
        match event:
            case Present(path):
                self._report.paths[path] = PathReport(path=path, status=Status.PRESENT)
            case Found(path, file_size, nar_size):
                found = PathReport(
                    path=path, status=Status.WANTED, file_size=file_size, nar_size=nar_size
                )
                self._report.paths[path] = found
            case Started(path, cache):
                self._report.paths[path].cache = cache
                self._report.paths[path].attempts += 1
            case Advanced(_, downloaded, unpacked):
                self._report.bytes_downloaded += downloaded
                self._report.bytes_unpacked += unpacked
            case Fetched(path):
                self._report.paths[path].status = Status.FETCHED
            case Failed(path, error):
                entry = self._report.paths.setdefault(
                    path, PathReport(path=path, status=Status.FAILED)
                )
                entry.status, entry.error = Status.FAILED, error
            case _:
                pass

    def report(self, error: NixfetchError) -> Report:
        """What became of each path that the run met, or was asked for, before `error` ended it."""
        for path in self._report.requested:
            self._report.paths.setdefault(path, PathReport(path=path, status=Status.WANTED))
        for entry in self._report.paths.values():
            if entry.status is Status.WANTED:
                entry.status, entry.error = Status.FAILED, error
        self._report.seconds = self._now() - self._begin
        return self._report
