"""What a run of warming came to, for people, for programs and for a metrics collector."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nixfetch.errors import NixfetchError
    from nixfetch.formats.storepath import StorePath

STATUSES = ("fetched", "present", "failed", "pending")
"""Of a path: `pending` was not come to before the run was to end."""
_GRAVEST_FIRST = {code: rank for rank, code in enumerate((6, 4, 5, 3))}  # of exit codes
PARTIAL = 3


@dataclass(slots=True)
class WarmedPath:
    """One path. Sizes are bytes."""

    path: StorePath
    status: str
    """One of `STATUSES`."""
    cache: str | None = None
    file_size: int | None = None
    nar_size: int | None = None
    error: NixfetchError | None = None

    def to_json(self) -> dict[str, Any]:
        """As the report has it."""
        return {
            "path": str(self.path),
            "status": self.status,
            "cache": self.cache,
            "file_size": self.file_size,
            "nar_size": self.nar_size,
            "error": None if self.error is None else str(self.error),
        }


@dataclass(slots=True)
class WarmedSource:
    """One source of a manifest."""

    name: str
    """``<manifest>:<name>``."""
    wanted: int = 0
    """Paths that it names."""
    lacking: int = 0
    """Of these, the ones that are not there now."""
    error: NixfetchError | None = None
    """Why it gave no paths."""

    def to_json(self) -> dict[str, Any]:
        """As the report has it."""
        return {
            "name": self.name,
            "wanted": self.wanted,
            "lacking": self.lacking,
            "error": None if self.error is None else str(self.error),
        }


@dataclass(slots=True, kw_only=True)
class WarmReport:
    """A whole run."""

    target: str
    """The root of the store, or the URL of the mirror."""
    started: float
    """Seconds since 1970."""
    seconds: float = 0.0
    sources: list[WarmedSource] = field(default_factory=list)
    paths: dict[StorePath, WarmedPath] = field(default_factory=dict)
    """Every path that was met."""
    bytes_downloaded: int = 0
    unrooted: int = 0
    """Paths that left a manifest, and are kept no more."""
    stopped: str | None = None
    """Which limit ended the run early."""
    failure: NixfetchError | None = None
    """What ended it, where it could not go on."""

    def those(self, status: str) -> list[WarmedPath]:
        """The paths that this became of."""
        return [path for path in self.paths.values() if path.status == status]

    @property
    def exit_code(self) -> int:
        """0: all that the manifests name is there. Else of the gravest reason."""
        codes = [source.error.exit_code for source in self.sources if source.error is not None]
        codes += [path.error.exit_code for path in self.paths.values() if path.error is not None]
        if self.stopped is not None:
            codes.append(PARTIAL)
        if self.failure is not None:
            codes.append(self.failure.exit_code)
        known = [code for code in codes if code in _GRAVEST_FIRST]
        return min(known, key=_GRAVEST_FIRST.__getitem__) if known else max(codes, default=0)

    def to_json(self) -> dict[str, Any]:
        """As ``--report`` and ``--json`` have it."""
        return {
            "target": self.target,
            "started": round(self.started, 3),
            "seconds": round(self.seconds, 3),
            "exit_code": self.exit_code,
            "stopped": self.stopped,
            "failure": None if self.failure is None else str(self.failure),
            "sources": [source.to_json() for source in self.sources],
            "paths": [path.to_json() for path in self.paths.values()],
            "bytes_downloaded": self.bytes_downloaded,
            "unrooted": self.unrooted,
        }


_LAST_SUCCESS = "nixfetch_warm_last_success_timestamp_seconds"
_OLD_SUCCESS = re.compile(rf"^{_LAST_SUCCESS} (\d+(?:\.\d+)?)$", re.MULTILINE)


def textfile(report: WarmReport, *, before: str = "") -> str:
    """The run as metrics for the textfile collector of a node exporter.

    Args:
        report: of the run.
        before: what the file had: when a run was good last stays in it.
    """
    ended = report.started + report.seconds
    old = _OLD_SUCCESS.search(before)
    success = f"{ended:.3f}" if report.exit_code == 0 else old[1] if old else "0"
    metrics: list[tuple[str, str, str]] = [
        ("last_run_timestamp_seconds", f"{ended:.3f}", "When the last run ended."),
        ("last_success_timestamp_seconds", success, "When the last run ended that was all good."),
        ("exit_code", str(report.exit_code), "Of the last run; 0: all is there."),
        ("duration_seconds", f"{report.seconds:.3f}", "Of the last run."),
        ("downloaded_bytes", str(report.bytes_downloaded), "By the last run."),
        ("stopped_early", str(int(report.stopped is not None)), "Whether a limit ended it."),
        ("unrooted_paths", str(report.unrooted), "Paths that left a manifest."),
    ]
    lines: list[str] = []
    for name, value, meaning in metrics:
        lines += _head(name, meaning)
        lines.append(f"nixfetch_warm_{name} {value}")
    lines += _head("paths", "Paths of the last run, by what became of them.")
    for status in STATUSES:
        lines.append(f'nixfetch_warm_paths{{status="{status}"}} {len(report.those(status))}')
    lines += _head("source_up", "Whether a source of a manifest gave its paths.")
    for source in report.sources:
        up = int(source.error is None)
        lines.append(f'nixfetch_warm_source_up{{source="{source.name}"}} {up}')
    return "\n".join(lines) + "\n"


def _head(name: str, meaning: str) -> list[str]:
    return [f"# HELP nixfetch_warm_{name} {meaning}", f"# TYPE nixfetch_warm_{name} gauge"]
