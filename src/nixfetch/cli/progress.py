"""Progress on stderr: a bar on a terminal, else a line every few seconds; or JSON lines."""

from __future__ import annotations

import json
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nixfetch.fetch.progress import Advanced, Failed, Fetched, Found, Present, Started, Walked
from nixfetch.fetch.report import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from nixfetch.cli.context import Context
    from nixfetch.cli.output import Output
    from nixfetch.fetch.progress import Event
    from nixfetch.fetch.report import Report

_PLAIN_INTERVAL = 5.0  # seconds
_BAR_INTERVAL = 0.1  # seconds
_UNITS = ("B", "KB", "MB", "GB", "TB")
_STEP = 1000


class Progress:
    """Counts, and shows nothing by itself."""

    def __init__(self, output: Output, *, now: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._now = now
        self._begin = now()
        self.downloaded = self.unpacked = self.done = 0
        self.to_download = self.to_unpack = self.paths = 0
        self.walked = False

    def show(self, event: Event) -> None:
        """Take an event of `fetch_closure`."""
        match event:
            case Found(_, file_size, nar_size):
                self.paths += 1
                self.to_download += file_size or nar_size
                self.to_unpack += nar_size
            case Walked():
                self.walked = True
            case Advanced(_, downloaded, unpacked):
                self.downloaded += downloaded
                self.unpacked += unpacked
            case Fetched():
                self.done += 1
            case Started() | Failed() | Present():
                pass

    def summary(self, report: Report) -> None:
        """Say what the whole came to."""
        entries = report.paths.values()
        wanted = [entry for entry in entries if entry.status is Status.WANTED]
        if wanted:
            size = sum(entry.file_size or entry.nar_size or 0 for entry in wanted)
            unpacked = sum(entry.nar_size or 0 for entry in wanted)
            self._say(
                f"would fetch {_count(len(wanted), 'path')}: {_size(size)} to download, "
                f"{_size(unpacked)} unpacked"
            )
            return
        fetched = sum(entry.status is Status.FETCHED for entry in entries)
        present = sum(entry.status is Status.PRESENT for entry in entries)
        parts = [f"fetched {_count(fetched, 'path')}"]
        if present:
            parts.append(f"{present} already there")
        if report.failures:
            parts.append(f"{len(report.failures)} failed")
        parts.append(f"{_size(report.bytes_downloaded)} downloaded")
        parts.append(f"{_size(report.bytes_unpacked)} unpacked")
        self._say(f"{', '.join(parts)} in {report.seconds:.1f} s")

    def clear(self) -> None:
        """Leave stderr at the start of a line."""

    def _say(self, text: str) -> None:
        self._output.error(text)

    def _line(self) -> str:
        """The state in one line."""
        seconds = max(self._now() - self._begin, 0.001)
        rate = self.downloaded / seconds
        total = "" if self.walked else "+"
        parts = [
            f"{self.done}/{self.paths}{total} paths",
            f"{_size(self.downloaded)}/{_size(self.to_download)}{total}",
            f"{_size(rate)}/s",
        ]
        if self.walked and rate and self.to_download > self.downloaded:
            parts.append(f"{(self.to_download - self.downloaded) / rate:.0f} s left")
        return ", ".join(parts)


class _Silent(Progress):
    """``none``."""

    def summary(self, report: Report) -> None:
        """Say nothing."""


class _Plain(Progress):
    """A line every five seconds."""

    def __init__(self, output: Output, *, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(output, now=now)
        self._shown = self._begin

    def show(self, event: Event) -> None:
        super().show(event)
        if self._now() - self._shown >= _PLAIN_INTERVAL:
            self._shown = self._now()
            self._say(self._line())


class _Bar(Progress):
    """One line of a terminal, written over and over."""

    def __init__(self, output: Output, *, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(output, now=now)
        self._shown = 0.0
        self._drawn = False

    def show(self, event: Event) -> None:
        super().show(event)
        if isinstance(event, Failed):
            self.clear()
        elif self._now() - self._shown >= _BAR_INTERVAL:
            self._shown = self._now()
            self._draw()

    def summary(self, report: Report) -> None:
        self.clear()
        super().summary(report)

    def clear(self) -> None:
        if self._drawn and self._output.err is not None:
            self._output.err.write(b"\r\x1b[K")
            self._output.err.flush()
        self._drawn = False

    def _draw(self) -> None:
        if self._output.err is None:
            return
        width = _width()
        share = min(1.0, self.unpacked / self.to_unpack) if self.to_unpack else 0.0
        line = self._line()
        room = max(0, min(30, width - len(line) - 4))
        bar = "#" * int(share * room) + "-" * (room - int(share * room))
        text = f"[{bar}] {line}" if room else line
        self._output.err.write(b"\r" + text[: width - 1].encode() + b"\x1b[K")
        self._output.err.flush()
        self._drawn = True


class _JsonLines(Progress):
    """One JSON object an event."""

    def show(self, event: Event) -> None:
        super().show(event)
        document: dict[str, object] = {"event": type(event).__name__.lower()}
        for name in event.__slots__:
            value = getattr(event, name)
            document[name] = value if isinstance(value, int | None) else str(value)
        self._output.error(json.dumps(document))

    def summary(self, report: Report) -> None:
        """The events have said it."""


@contextmanager
def showing_progress(context: Context) -> Iterator[Progress]:
    """A progress display as the settings want it, cleared at the end."""
    progress = _choose(context, os.environ)
    try:
        yield progress
    finally:
        progress.clear()


def _choose(context: Context, environ: Mapping[str, str]) -> Progress:
    output, config = context.output, context.config
    kind = config.progress
    if kind == "auto":
        if config.verbosity < 0 or config.log_format != "text":
            kind = "none"
        else:
            terminal = output.err is not None and output.err.isatty()
            kind = "tty" if terminal and environ.get("TERM", "dumb") != "dumb" else "plain"
    kinds = {"tty": _Bar, "plain": _Plain, "json": _JsonLines, "none": _Silent}
    return kinds[kind](output)


def _width() -> int:
    try:
        return os.get_terminal_size(2).columns or 80
    except OSError:
        return 80


def _size(size: float) -> str:
    """`size` bytes for people: 1.2 MB."""
    for unit in _UNITS[:-1]:
        if size < _STEP:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= _STEP
    return f"{size:.1f} {_UNITS[-1]}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
