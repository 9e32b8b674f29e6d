"""Fetches of a daemon: one call of `nixfetch` each, counted. Knows nothing of snapshots.

Caches are opened anew for each fetch: what was learnt of one that was down is forgotten by then,
and passwords that have changed are read again.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import nixfetch
from snapshotter.memory import give_back

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from snapshotter.labels import NixLayer
    from snapshotter.metrics import Metrics
    from snapshotter.substitute import Substitute

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where store paths come from, and whom to believe."""

    open_caches: Callable[[bool], nixfetch.CacheGroup]
    """Opens them; they are asked anew where it is told True, whatever is remembered of them."""
    policy: nixfetch.TrustPolicy
    jobs: int | None = None
    """NARs unpacked at a time; as many as there are cores by default."""
    min_free: int = 0
    """Bytes that are to stay free on the disk of the store."""


class Fetcher:
    """Brings paths from the caches into a store. Safe to share among threads."""

    def __init__(self, source: Source, metrics: Metrics) -> None:
        """Fetch from `source`.

        Args:
            source: where from.
            metrics: keeps the counts.
        """
        self._source, self._metrics = source, metrics
        self.here = threading.local()
        """Whether this thread has fetched: its attribute ``fetched``."""

    def __call__(
        self,
        paths: Sequence[nixfetch.StorePath],
        /,
        *,
        store: nixfetch.LocalStore,
        cancelled: Callable[[], bool],
    ) -> nixfetch.Report:
        """Make `paths`, and all that they refer to, valid in `store`.

        Raises:
            As `nixfetch.fetch_closure`.
        """
        self.here.fetched = True
        try:
            return self._counted(paths, store, cancelled)
        finally:
            give_back()

    def _counted(
        self,
        paths: Sequence[nixfetch.StorePath],
        store: nixfetch.LocalStore,
        cancelled: Callable[[], bool],
    ) -> nixfetch.Report:
        try:
            report = self._fetch(paths, store, cancelled)
        except nixfetch.FetchFailedError as error:
            self._metrics.fetched(error.report, failed=True)
            raise
        except nixfetch.NixfetchError:
            self._metrics.fetch_failed()
            raise
        self._metrics.fetched(report)
        _log.info(
            "fetched what a layer needs: %d paths, %d bytes, %.1f s",
            sum(path.status is nixfetch.Status.FETCHED for path in report.paths.values()),
            report.bytes_downloaded,
            report.seconds,
        )
        return report

    def _fetch(
        self,
        paths: Sequence[nixfetch.StorePath],
        store: nixfetch.LocalStore,
        cancelled: Callable[[], bool],
    ) -> nixfetch.Report:
        try:
            return self._fetch_once(paths, store, cancelled, refresh=False)
        except nixfetch.FetchFailedError as error:
            if not is_remembered(error.report):
                raise
        # A pod may be older than its paths: what a cache lacked a minute ago it may have now.
        return self._fetch_once(paths, store, cancelled, refresh=True)

    def _fetch_once(
        self,
        paths: Sequence[nixfetch.StorePath],
        store: nixfetch.LocalStore,
        cancelled: Callable[[], bool],
        *,
        refresh: bool,
    ) -> nixfetch.Report:
        with self._source.open_caches(refresh) as caches:
            return nixfetch.fetch_closure(
                paths,
                caches=caches,
                policy=self._source.policy,
                store=store,
                jobs=self._source.jobs,
                min_free=self._source.min_free,
                cancelled=cancelled,
            )


def is_remembered(report: nixfetch.Report) -> bool:
    """Whether a cache was not asked, since it lacked a path lately."""
    return any(
        answer.facts.get("remembered")
        for failure in report.failures
        for _, answer in getattr(failure.error, "errors", ())
    )


class Counted:
    """Store paths on this machine, and a count of those that were there without a fetch.

    Safe to share among threads.
    """

    def __init__(self, closures: Substitute, fetcher: Fetcher, metrics: Metrics) -> None:
        """Count what `closures` does.

        Args:
            closures: does it.
            fetcher: what it fetches with.
            metrics: keeps the counts.
        """
        self._closures, self._fetcher, self._metrics = closures, fetcher, metrics
        self.located = closures.located
        self.root, self.unroot, self.roots = closures.root, closures.unroot, closures.roots

    def ensure(
        self, layer: NixLayer, *, root: str, cancelled: Callable[[], bool]
    ) -> tuple[nixfetch.StorePath, ...]:
        """As `Substitute.ensure`."""
        self._fetcher.here.fetched = False
        paths = self._closures.ensure(layer, root=root, cancelled=cancelled)
        if not self._fetcher.here.fetched:
            self._metrics.present(len(paths))
        return paths
