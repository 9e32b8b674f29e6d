"""Progress on stderr: a bar on a terminal, else a line every few seconds; or for programs.

``--progress json`` writes one JSON object a line. ``event`` says which of the events of
`nixfetch.fetch.progress` it is; its fields follow under their names, sizes in bytes, times in
seconds:

    {"event": "present", "path": "/nix/store/…"}
    {"event": "found", "path": "…", "file_size": 520, "nar_size": 1320}     file_size may be null
    {"event": "walked", "paths": 11, "file_size": 16000, "nar_size": 41176}
    {"event": "started", "path": "…", "cache": "https://…"}
    {"event": "advanced", "path": "…", "downloaded": 520, "unpacked": 1320,
     "spent": {"network": 0.1, "decoding": 0.0, "disk": 0.0}}
    {"event": "fetched", "path": "…", "nar_size": 1320}
    {"event": "failed", "path": "…", "error": {"error": "…", "exit_code": 4, "facts": {…}}}

With ``--log-format internal-json`` progress is Nix's own: see `activities`.

Events come from the thread that fetches; a thread of this module looks at the clock, so that a
network that went silent shows too. They share the `Tally` under a lock.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING

from nixfetch.cli import logs
from nixfetch.cli.activities import Activities
from nixfetch.cli.problems import as_json
from nixfetch.cli.sizes import amount
from nixfetch.cli.tally import Tally
from nixfetch.errors import NixfetchError
from nixfetch.fetch.progress import Found, Spent
from nixfetch.fetch.report import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nixfetch.cli.context import Context
    from nixfetch.cli.output import Output
    from nixfetch.fetch.progress import Event
    from nixfetch.fetch.report import Report
    from nixfetch.formats.storepath import StorePath

_PLAIN_INTERVAL = 5.0  # seconds between two lines
_BAR_INTERVAL = 0.1  # seconds between two drawings of the bar
_WIDEST_BAR = 30  # columns
_NARROWEST_BAR = 5  # columns; below, there is none
_MINUTE = 60
_HOUR = 3600


class Progress:
    """Counts, and shows nothing but the summary."""

    interval: float | None = None
    """Seconds between two calls of `tick`; None for no calls."""

    def __init__(
        self,
        output: Output,
        *,
        log_format: str = "text",
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._output = output
        self._log_format = log_format
        self._now = now
        self._tally = Tally(now())
        self._lock = threading.Lock()

    def show(self, event: Event) -> None:
        """Take an event of `fetch_closure`."""
        with self._lock:
            self._tally.take(event, self._now())

    def tick(self) -> None:
        """Look at the clock, and show what there is to show."""

    def clear(self) -> None:
        """Leave stderr at the start of a line."""

    def summary(self, report: Report) -> None:
        """Say what the whole came to."""
        self.clear()
        self._say(summary_of(report))

    def _say(self, text: str) -> None:
        self._output.error(logs.line(self._log_format, logging.INFO, text))

    def _parts(self) -> list[str]:
        """The state, the most important first."""
        tally, now = self._tally, self._now()
        tally.sample(now)
        more = "" if tally.walked else "+"
        parts = [
            f"{tally.fetched}/{tally.paths}{more} paths",
            f"{amount(tally.downloaded)} of {amount(tally.to_download)}{more}",
            f"{amount(tally.rate)}/s",
        ]
        if (left := tally.seconds_left) is not None:
            parts.append(f"{duration(left)} left")
        if waiting := tally.waiting_for(now):
            parts.append(f"waits for {waiting}")
        if tally.failed:
            parts.insert(1, f"{tally.failed} failed")
        return parts


class Silent(Progress):
    """``none``."""

    def summary(self, report: Report) -> None:
        """Say nothing."""


class Plain(Progress):
    """A line every five seconds, whether anything happens or not."""

    interval = _PLAIN_INTERVAL

    def tick(self) -> None:
        with self._lock:
            text = ", ".join(self._parts())
        self._say(text)


class Bar(Progress):
    """The last line of a terminal, drawn over and over."""

    interval = _BAR_INTERVAL

    def tick(self) -> None:
        with self._lock:
            parts = self._parts()
            tally = self._tally
            share = min(1.0, tally.unpacked / tally.to_unpack) if tally.to_unpack else 0.0
        # The last column stays free: terminals differ in what they do after it.
        self._output.bar(fitted(parts, share, self._output.width() - 1))

    def clear(self) -> None:
        self._output.bar("")


class JsonLines(Progress):
    """One JSON object an event."""

    def show(self, event: Event) -> None:
        document: dict[str, object] = {"event": type(event).__name__.lower()}
        document |= {field.name: _json(getattr(event, field.name)) for field in fields(event)}
        self._output.error(json.dumps(document))

    def summary(self, report: Report) -> None:
        """The events have said it."""


class NixActivities(Progress):
    """Nix's own protocol."""

    interval = _BAR_INTERVAL

    def __init__(
        self,
        output: Output,
        *,
        log_format: str = "internal-json",
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(output, log_format=log_format, now=now)
        self._activities = Activities(output.error)
        self._sizes: dict[StorePath, int] = {}

    def show(self, event: Event) -> None:
        super().show(event)
        with self._lock:
            if isinstance(event, Found):
                self._sizes[event.path] = event.nar_size
            path = getattr(event, "path", None)
            self._activities.show(event, self._sizes.get(path, 0) if path else 0)

    def tick(self) -> None:
        with self._lock:
            self._activities.totals(self._tally)

    def clear(self) -> None:
        self.tick()
        with self._lock:
            self._activities.end()


@contextmanager
def showing_progress(context: Context) -> Iterator[Progress]:
    """A progress display as the settings want it, cleared at the end."""
    progress = choose(context)
    over = threading.Event()
    ticker = threading.Thread(
        target=_tick, args=(progress, over), name="nixfetch-progress", daemon=True
    )
    if progress.interval is not None:
        ticker.start()
    try:
        yield progress
    finally:
        over.set()
        if progress.interval is not None:
            ticker.join(1.0)  # longer only if nobody reads stderr
        progress.clear()


def choose(context: Context) -> Progress:
    """The display that the settings want, not yet running."""
    output, config = context.output, context.config
    kind = config.progress
    if kind == "auto":
        if config.verbosity < 0:
            kind = "none"
        elif config.log_format == "internal-json":
            return NixActivities(output)
        else:
            kind = "tty" if context.steerable and config.log_format == "text" else "plain"
    kinds = {"tty": Bar, "plain": Plain, "json": JsonLines, "none": Silent}
    return kinds[kind](output, log_format=config.log_format)


def summary_of(report: Report) -> str:
    """What `report` came to, in one line."""
    entries = report.paths.values()
    wanted = [entry for entry in entries if entry.status is Status.WANTED]
    present = sum(entry.status is Status.PRESENT for entry in entries)
    failed = len(report.failures)
    if wanted:
        download = sum(entry.file_size or entry.nar_size or 0 for entry in wanted)
        unpacked = sum(entry.nar_size or 0 for entry in wanted)
        counts = _counts(f"would fetch {_count(len(wanted), 'path')}", present, failed)
        return f"{counts}: {amount(download)} to download, {amount(unpacked)} unpacked"
    fetched = sum(entry.status is Status.FETCHED for entry in entries)
    if present and not fetched and not failed:
        return (
            "the path is there already"
            if present == 1
            else f"all {present} paths are there already"
        )
    counts = _counts(f"fetched {_count(fetched, 'path')}", present, failed)
    saved = f" ({amount(report.bytes_saved)} of it linked)" if report.bytes_saved else ""
    return (
        f"{counts}: {amount(report.bytes_downloaded)} downloaded, "
        f"{amount(report.bytes_unpacked)} unpacked{saved} in {report.seconds:.1f} s"
    )


def fitted(parts: list[str], share: float, width: int) -> str:
    """`parts` behind a bar, in at most `width` columns; what does not fit is left out."""
    parts = list(parts)
    while len(parts) > 1 and len(", ".join(parts)) > width:
        parts.pop()
    text = ", ".join(parts)
    room = min(_WIDEST_BAR, width - len(text) - len("[] "))
    if room < _NARROWEST_BAR:
        return text[: max(0, width)]
    done = int(share * room)
    return f"[{'#' * done}{'-' * (room - done)}] {text}"


def duration(seconds: float) -> str:
    """`seconds` for people: 12 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"


def _tick(progress: Progress, over: threading.Event) -> None:
    while not over.wait(progress.interval):
        progress.tick()


def _counts(first: str, present: int, failed: int) -> str:
    parts = [first]
    if present:
        parts.append(f"{present} already there")
    if failed:
        parts.append(f"{failed} failed")
    return ", ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _json(value: object) -> object:
    match value:
        case None | int():
            return value
        case Spent():
            return {field.name: round(getattr(value, field.name), 4) for field in fields(value)}
        case NixfetchError():
            return as_json(value)
        case _:
            return str(value)
