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

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from snapshotter.labels import NixLayer
    from snapshotter.metrics import Metrics
    from snapshotter.substitute import Substitute

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where store paths come from, and whom to believe."""

    open_caches: Callable[[], nixfetch.CacheGroup]
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
            with self._source.open_caches() as caches:
                report = nixfetch.fetch_closure(
                    paths,
                    caches=caches,
                    policy=self._source.policy,
                    store=store,
                    jobs=self._source.jobs,
                    min_free=self._source.min_free,
                    cancelled=cancelled,
                )
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
        self.sources, self.links = closures.sources, closures.links
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
