"""Progress as Nix tells it to its own tools: ``--log-format internal-json``.

    start copyPaths                     one for the run; its results are paths done, to do,
                                        running, failed; and the bytes to expect of copyPath
      start copyPath PATH FROM "local"  one a path; its results are bytes done, to do
      stop
    stop

nix-output-monitor takes a copyPath to "local" for a download and draws it. Downloads of single
files (fileTransfer) are not told: events do not know URLs.

Source: nix, src/libutil/include/nix/util/logging.hh, `ActivityType`, `ResultType`;
src/libstore/store-api.cc, `copyPaths`, `copyStorePath`.
"""

from __future__ import annotations

import os
from itertools import count
from typing import TYPE_CHECKING

from nixfetch.cli.logs import nix
from nixfetch.fetch.progress import Advanced, Failed, Fetched, Started

if TYPE_CHECKING:
    from collections.abc import Callable

    from nixfetch.cli.tally import Tally
    from nixfetch.fetch.progress import Event
    from nixfetch.formats.storepath import StorePath

COPY_PATH = 100
COPY_PATHS = 103
PROGRESS = 105
SET_EXPECTED = 106
_INFO = 3


class Activities:
    """What goes on, as lines for stderr."""

    def __init__(self, write: Callable[[str], None], *, process: int | None = None) -> None:
        """Write lines with `write`. `process`: a number that no other process has."""
        self._write = write
        # As Nix: so that several processes may share one reader.
        self._ids = count((os.getpid() if process is None else process) << 32)
        self._run: int | None = None
        self._running: dict[StorePath, list[int]] = {}  # activity, bytes to unpack, bytes done
        self._sizes: dict[StorePath, int] = {}
        self._told: tuple[int, ...] = ()

    def show(self, event: Event, nar_size: int) -> None:
        """Tell of `event`. `nar_size`: of the event's path, where it is known."""
        match event:
            case Started(path, cache):
                self._stop(path)  # another cache is tried
                text = f"copying path '{path}' from '{cache}'"
                activity = self._start(COPY_PATH, text, [str(path), cache, "local"], self._begin())
                self._running[path] = [activity, nar_size, 0]
            case Advanced(path, _, unpacked) if path in self._running:
                running = self._running[path]
                running[2] += unpacked
                self._result(running[0], PROGRESS, running[2], running[1], 0, 0)
            case Fetched(path) | Failed(path):
                self._stop(path)
            case _:
                pass

    def totals(self, tally: Tally) -> None:
        """Tell of the whole, if it changed."""
        running = len(self._running)
        told = (tally.fetched, tally.paths, running, tally.failed, tally.to_unpack)
        if tally.paths and told != self._told:
            self._told = told
            run = self._begin()
            self._result(run, SET_EXPECTED, COPY_PATH, tally.to_unpack)
            self._result(run, PROGRESS, *told[:4])

    def end(self) -> None:
        """Stop whatever is still under way."""
        for path in list(self._running):
            self._stop(path)
        if self._run is not None:
            self._write(nix({"action": "stop", "id": self._run}))
        self._run = None

    def _begin(self) -> int:
        if self._run is None:
            self._run = self._start(COPY_PATHS, "copying paths", [], 0)
        return self._run

    def _start(self, kind: int, text: str, fields: list[str], parent: int) -> int:
        activity = next(self._ids)
        message: dict[str, object] = {
            "action": "start",
            "id": activity,
            "level": _INFO,
            "parent": parent,
            "text": text,
            "type": kind,
        }
        if fields:
            message["fields"] = fields
        self._write(nix(message))
        return activity

    def _stop(self, path: StorePath) -> None:
        running = self._running.pop(path, None)
        if running is not None:
            self._write(nix({"action": "stop", "id": running[0]}))

    def _result(self, activity: int, kind: int, *fields: int) -> None:
        message = {"action": "result", "fields": list(fields), "id": activity, "type": kind}
        self._write(nix(message))
