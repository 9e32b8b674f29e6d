"""Fetching: from caches into the store. The one place of the library that has threads."""

from __future__ import annotations

from nixfetch.fetch.closure import CancelledError, FetchFailedError, fetch_closure
from nixfetch.fetch.progress import (
    Advanced,
    Event,
    Failed,
    Fetched,
    Found,
    Present,
    Started,
    Walked,
)
from nixfetch.fetch.report import PathReport, Report, Status

__all__ = (
    "Advanced",
    "CancelledError",
    "Event",
    "Failed",
    "FetchFailedError",
    "Fetched",
    "Found",
    "PathReport",
    "Present",
    "Report",
    "Started",
    "Status",
    "Walked",
    "fetch_closure",
)
