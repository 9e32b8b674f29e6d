"""Runs of `fetch_closure` over simulated caches, and what must hold after each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import places
from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.fetch import (
    Advanced,
    Event,
    Failed,
    Fetched,
    FetchFailedError,
    Found,
    Present,
    Report,
    Started,
    Status,
    Walked,
    fetch_closure,
)
from simulated_cache import POLICY, SimulatedCache, store_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import TrustPolicy
    from nixfetch.store import LocalStore


def fetch(
    store: LocalStore,
    caches: SimulatedCache | Sequence[SimulatedCache],
    paths: Iterable[StorePath],
    *,
    policy: TrustPolicy = POLICY,
    jobs: int | None = None,
    whole: bool = True,
    dry_run: bool = False,
    min_free: int = 0,
    on_event: Callable[[Event], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Report:
    """Fetch without waiting between tries."""
    several = [caches] if isinstance(caches, SimulatedCache) else caches
    with CacheGroup([BinaryCache(cache, sleep=lambda _: None) for cache in several]) as group:
        return fetch_closure(
            paths,
            caches=group,
            policy=policy,
            store=store,
            jobs=jobs,
            whole=whole,
            dry_run=dry_run,
            min_free=min_free,
            on_event=on_event,
            cancelled=cancelled,
        )


def failing_fetch(
    store: LocalStore,
    caches: SimulatedCache | Sequence[SimulatedCache],
    paths: Iterable[StorePath],
    *,
    whole: bool = True,
    dry_run: bool = False,
) -> FetchFailedError:
    """What `fetch` raises when some paths are not had."""
    events: list[Event] = []
    with pytest.raises(FetchFailedError) as caught:
        fetch(store, caches, paths, whole=whole, dry_run=dry_run, on_event=events.append)
    check_events(events, caught.value.report)
    return caught.value


def graph(
    cache: SimulatedCache, edges: Mapping[str, Sequence[str]], *, size: int = 10
) -> dict[str, StorePath]:
    """Add paths by name and what each refers to."""
    return {
        name: cache.add(
            name,
            {b"bin": {name.encode(): name.encode() * size}},
            references=map(store_path, references),
            compression="xz",
        )
        for name, references in edges.items()
    }


def consistent(store: LocalStore) -> bool:
    """Whether all valid paths are there, and all that they refer to is valid."""
    valid = store.all_valid()
    for path in valid:
        known = store.get(path)
        assert known is not None
        if not store.physical(path).exists() or store.valid(known.references) != set(
            known.references
        ):
            return False
    return True


def names_in(store_directory: LocalStore) -> list[str]:
    return places.names(store_directory.layout.store)


def check_events(events: Sequence[Event], report: Report) -> None:
    """The order that `progress` promises."""
    walked = [event for event in events if isinstance(event, Walked)]
    assert len(walked) == 1
    after = events[events.index(walked[0]) :]
    assert not any(isinstance(event, Present | Found) for event in after)
    of_path: dict[StorePath, list[type[Event]]] = {}
    for event in events:
        if not isinstance(event, Walked):
            of_path.setdefault(event.path, []).append(type(event))
    assert set(of_path) == set(report.paths)
    for path, kinds in of_path.items():
        match report.paths[path].status:
            case Status.PRESENT:
                assert kinds == [Present]
            case Status.WANTED:
                assert kinds == [Found]
            case Status.FETCHED:
                assert kinds[0] is Found
                assert kinds[1] is Started
                assert set(kinds[1:-1]) <= {Started, Advanced}
                assert kinds[-1] is Fetched
            case Status.FAILED:
                assert kinds[-1] is Failed
                assert set(kinds[:-1]) <= {Found, Started, Advanced}
    advanced = [event for event in events if isinstance(event, Advanced)]
    assert sum(event.downloaded for event in advanced) == report.bytes_downloaded
    assert sum(event.unpacked for event in advanced) == report.bytes_unpacked
