"""What the daemon counts, and the text that Prometheus reads.

Knows nothing of gRPC; whoever measures says what it saw. Names end in their unit, as Prometheus
wants them.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import nixfetch

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 120.0)
"""Seconds: a call that fetches nothing takes one or two milliseconds, a cold closure minutes."""

_PREFIX = "nixfetch_snapshotter"
_STATM = Path("/proc/self/statm")
_PAGE = 4096  # bytes; /proc/self/statm counts in pages
_RESIDENT = 1  # field of it


@dataclass(slots=True)
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds


class Metrics:
    """Counters since the start. Safe to share among threads."""

    def __init__(self, *, version: str = "", now: Callable[[], float] = time.time) -> None:
        """Begin at zero.

        Args:
            version: of this program.
            now: the clock: seconds since 1970.
        """
        self._lock = threading.Lock()
        self._version, self._started = version, now()
        self._calls: dict[tuple[str, str], int] = {}
        self._latency: dict[str, _Histogram] = {}
        self._paths: dict[str, int] = {"fetched": 0, "present": 0, "failed": 0}
        self._bytes: dict[str, int] = {"downloaded": 0, "unpacked": 0}
        self._fetches: dict[str, int] = {"done": 0, "failed": 0}
        self._fetching = 0.0

    def called(self, method: str, status: str, seconds: float) -> None:
        """A call was answered.

        Args:
            method: such as ``Prepare``.
            status: such as ``OK``.
            seconds: that it took.
        """
        with self._lock:
            key = method, status
            self._calls[key] = self._calls.get(key, 0) + 1
            self._latency.setdefault(method, _Histogram()).add(seconds)

    def fetched(self, report: nixfetch.Report, *, failed: bool = False) -> None:
        """A closure was fetched, or some of its paths were.

        Args:
            report: what became of each path.
            failed: whether some were not had.
        """
        with self._lock:
            self._fetches["failed" if failed else "done"] += 1
            self._fetching += report.seconds
            self._bytes["downloaded"] += report.bytes_downloaded
            self._bytes["unpacked"] += report.bytes_unpacked
            for path in report.paths.values():
                status = path.status.value
                self._paths[status] = self._paths.get(status, 0) + 1

    def present(self, paths: int) -> None:
        """A closure of that many paths was in the store already."""
        with self._lock:
            self._paths["present"] += paths

    def fetch_failed(self) -> None:
        """A closure was not had, and nothing is known of its paths."""
        with self._lock:
            self._fetches["failed"] += 1

    def render(self, snapshots: Mapping[str, int]) -> str:
        """All of it, for Prometheus.

        Args:
            snapshots: how many there are, by kind.
        """
        with self._lock:
            lines = [
                *_family(
                    "build_info",
                    "gauge",
                    "which program this is",
                    [({"version": self._version}, 1)],
                ),
                *_family("start_time_seconds", "gauge", "when it began", [({}, self._started)]),
                *_family(
                    "resident_memory_bytes", "gauge", "memory in use", [({}, _resident_bytes())]
                ),
                *_family("snapshots", "gauge", "snapshots by kind", _by("kind", snapshots)),
                *_family(
                    "calls_total",
                    "counter",
                    "calls answered",
                    [
                        ({"method": method, "status": status}, count)
                        for (method, status), count in sorted(self._calls.items())
                    ],
                ),
                *self._histograms(),
                *_family(
                    "fetches_total", "counter", "closures fetched", _by("result", self._fetches)
                ),
                *_family(
                    "fetch_seconds_total", "counter", "time in fetches", [({}, self._fetching)]
                ),
                *_family(
                    "paths_total",
                    "counter",
                    "store paths asked for: present without a fetch, fetched, or failed",
                    _by("result", self._paths),
                ),
                *_family(
                    "bytes_total", "counter", "bytes of store paths", _by("what", self._bytes)
                ),
            ]
        return "\n".join([*lines, ""])

    def _histograms(self) -> Iterator[str]:
        yield from _head("call_seconds", "histogram", "how long calls take")
        for method, histogram in sorted(self._latency.items()):
            total = 0
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), histogram.counts, strict=True):
                total += count
                yield _sample("call_seconds_bucket", {"method": method, "le": bound}, total)
            yield _sample("call_seconds_sum", {"method": method}, histogram.seconds)
            yield _sample("call_seconds_count", {"method": method}, total)


def _by(label: str, counts: Mapping[str, int]) -> list[tuple[dict[str, str], float]]:
    return [({label: key}, count) for key, count in sorted(counts.items())]


def _family(
    name: str, kind: str, text: str, samples: list[tuple[dict[str, str], float]]
) -> Iterator[str]:
    yield from _head(name, kind, text)
    for labels, value in samples:
        yield _sample(name, labels, value)


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {_PREFIX}_{name} {text}"
    yield f"# TYPE {_PREFIX}_{name} {kind}"


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    number = value if isinstance(value, int) else float(value)
    return f"{_PREFIX}_{name}{'{' + inside + '}' if inside else ''} {number!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _resident_bytes() -> int:
    try:
        return int(_STATM.read_text().split()[_RESIDENT]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0
