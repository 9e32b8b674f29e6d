"""One run: what the manifests name, into the store or into a mirror.

    sources -> paths -> fetched, or mirrored -> roots: one set a source

A source that does not answer changes nothing: its set of roots stays. Of one whose paths are not
all there yet, what it named before stays too: nothing is let go before what replaces it is there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nixfetch.errors import NixfetchError
from nixfetch.fetch import progress
from nixfetch.fetch.closure import CancelledError, FetchFailedError, fetch_closure
from nixfetch.mirror import MirrorFailedError, mirror_closure
from nixfetch.store.roots import RootKind, Roots
from nixfetch.warm.report import WarmedPath, WarmedSource, WarmReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from nixfetch.cache import CacheGroup
    from nixfetch.formats.storepath import StorePath
    from nixfetch.mirror import Destination, MirrorReport, Recipe, Sources
    from nixfetch.plan.trust import TrustPolicy
    from nixfetch.store import LocalStore
    from nixfetch.warm.manifest import Manifest
    from nixfetch.warm.sources import Resolver

_SETS = "warm:"
"""What the names of our sets of roots begin with: ``warm:<manifest>:<source>``."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a run may take; None: without limit."""

    max_bytes: int | None = None
    max_seconds: float | None = None


@dataclass(slots=True)
class Warming:
    """What the manifests name."""

    report: WarmReport
    paths: dict[str, list[StorePath]] = field(default_factory=dict)
    """By the name of their source; those of sources that did not answer are not there."""
    manifests: tuple[str, ...] = ()

    @property
    def wanted(self) -> list[StorePath]:
        """All paths, each once."""
        return list(dict.fromkeys(path for paths in self.paths.values() for path in paths))


def resolve(
    manifests: Iterable[tuple[Manifest, Resolver]],
    *,
    target: str,
    now: Callable[[], float] = time.time,
) -> Warming:
    """Ask all sources for their paths; one that fails is in the report.

    Args:
        manifests: each with who finds what it names.
        target: where the paths are to go, for the report.
        now: seconds since 1970.
    """
    pairs = list(manifests)
    warming = Warming(WarmReport(target=target, started=now()))
    warming.manifests = tuple(manifest.name for manifest, _ in pairs)
    for manifest, resolver in pairs:
        for source in manifest.sources:
            entry = WarmedSource(f"{manifest.name}:{source.name}")
            warming.report.sources.append(entry)
            try:
                found = resolver.paths(source)
            except NixfetchError as error:
                entry.error = error
            else:
                entry.wanted = len(found)
                warming.paths[entry.name] = found
    return warming


class _Tally:
    """Fills a report from events, and says when a limit is reached."""

    def __init__(
        self,
        report: WarmReport,
        limits: Limits,
        on_event: Callable[[progress.Event], None],
        now: Callable[[], float],
    ) -> None:
        self._report = report
        self._limits = limits
        self._on_event = on_event
        self._now = now

    def take(self, event: progress.Event) -> None:
        """Take note of `event`."""
        paths = self._report.paths
        match event:
            case progress.Present(path):
                paths[path] = WarmedPath(path, "present")
            case progress.Found(path, file_size, nar_size):
                paths[path] = WarmedPath(path, "pending", file_size=file_size, nar_size=nar_size)
            case progress.Started(path, cache):
                paths[path].cache = cache
            case progress.Advanced(_, downloaded, _):
                self._report.bytes_downloaded += downloaded
            case progress.Fetched(path):
                paths[path].status = "fetched"
            case progress.Failed(path, error):
                entry = paths.setdefault(path, WarmedPath(path, "failed"))
                entry.status, entry.error = "failed", error
            case progress.Walked():
                pass
        self._on_event(event)

    def reached(self) -> str | None:
        """Which limit is reached."""
        limits, report = self._limits, self._report
        if limits.max_bytes is not None and report.bytes_downloaded >= limits.max_bytes:
            return "max-bytes"
        if limits.max_seconds is not None and self._now() - report.started >= limits.max_seconds:
            return "max-duration"
        return None

    def stops(self) -> bool:
        """Whether a limit is reached; the report says which."""
        self._report.stopped = self._report.stopped or self.reached()
        return self._report.stopped is not None


def warm_store(
    warming: Warming,
    *,
    caches: CacheGroup,
    policy: TrustPolicy,
    store: LocalStore,
    limits: Limits | None = None,
    jobs: int | None = None,
    min_free: int = 0,
    on_event: Callable[[progress.Event], None] = lambda _: None,
    now: Callable[[], float] = time.time,
) -> WarmReport:
    """Have what the manifests name in the store, and keep it there by sets of roots.

    Args:
        warming: of `resolve`.
        caches: where from.
        policy: whom to believe.
        store: where to; open for writing.
        limits: how much the run may take. What is on its way when one is reached is begun anew,
            or gone on with, by the next run.
        jobs: NARs decoded and unpacked at a time.
        min_free: bytes that are to stay free on the disk of the store.
        on_event: told of what happens, in the calling thread.
        now: seconds since 1970.

    Returns:
        What came of it; `WarmReport.exit_code` says how well. Paths that fail do not raise.

    Raises:
        KeyboardInterrupt, or what `on_event` raises.
    """
    report = warming.report
    tally = _Tally(report, limits or Limits(), on_event, now)
    try:
        fetch_closure(
            warming.wanted,
            caches=caches,
            policy=policy,
            store=store,
            jobs=jobs,
            min_free=min_free,
            on_event=tally.take,
            cancelled=tally.stops,
        )
    except (FetchFailedError, CancelledError):
        pass  # the report has it
    except NixfetchError as error:
        report.failure = error
    try:
        _follow(warming, store)
    except NixfetchError as error:
        report.failure = report.failure or error
    report.seconds = now() - report.started
    return report


def _follow(warming: Warming, store: LocalStore) -> None:
    """Have the sets of roots follow the manifests."""
    roots = Roots(store)
    before: dict[str, set[StorePath]] = {name: set() for name in roots.sets()}
    for root in roots.list():
        if root.kind is RootKind.SET and root.path is not None and root.is_valid:
            before.setdefault(root.name, set()).add(root.path)
    valid = store.valid(warming.wanted)
    kept_before = _ours(before, warming.manifests)
    for source in warming.report.sources:
        name = _SETS + source.name
        wanted = warming.paths.get(source.name)
        if wanted is None:
            continue
        kept = [path for path in wanted if path in valid]
        source.lacking = len(wanted) - len(kept)
        members = set(kept)
        if source.lacking:
            members |= before.get(name, set())
        if name not in before or members != before[name]:
            roots.add_set(name, sorted(members))
        before[name] = members
    known = {_SETS + source.name for source in warming.report.sources}
    for name in [name for name in before if _is_of(name, warming.manifests)]:
        if name not in known:
            roots.remove(name)
            del before[name]
    warming.report.unrooted = len(kept_before - _ours(before, warming.manifests))


def _ours(sets: dict[str, set[StorePath]], manifests: Sequence[str]) -> set[StorePath]:
    """The paths that sets of these manifests keep."""
    ours = (paths for name, paths in sets.items() if _is_of(name, manifests))
    return set().union(*ours)


def _is_of(name: str, manifests: Sequence[str]) -> bool:
    return any(name.startswith(f"{_SETS}{manifest}:") for manifest in manifests)


def warm_mirror(
    warming: Warming,
    *,
    sources: Sources,
    destination: Destination,
    recipe: Recipe | None = None,
    limits: Limits | None = None,
    on_event: Callable[[progress.Event], None] = lambda _: None,
    now: Callable[[], float] = time.time,
) -> WarmReport:
    """Have what the manifests name in a mirror. Nothing is removed there; `mirror.prune` does.

    Args:
        warming: of `resolve`.
        sources: where from.
        destination: where to.
        recipe: what to do on the way.
        limits: how much the run may take; what is on its way comes to its end.
        on_event: told of what happens, in the calling thread.
        now: seconds since 1970.

    Returns:
        As `warm_store`.
    """
    report = warming.report
    tally = _Tally(report, limits or Limits(), on_event, now)
    mirrored: MirrorReport | None = None
    try:
        mirrored = mirror_closure(
            warming.wanted,
            sources=sources,
            destination=destination,
            recipe=recipe,
            on_event=tally.take,
            enough=tally.reached,
        )
    except MirrorFailedError as error:
        mirrored = error.report
    except NixfetchError as error:
        report.failure = error
    if mirrored is not None:
        report.stopped = mirrored.stopped
    there = {path for path, entry in report.paths.items() if entry.status in {"fetched", "present"}}
    for source in report.sources:
        wanted = warming.paths.get(source.name, [])
        source.lacking = sum(path not in there for path in wanted)
    report.seconds = now() - report.started
    return report
