from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.cache.memory import LARGE_FILE, Memory
from nixfetch.cache.partial import Partials
from nixfetch.fetch import Event, Fetched, FetchFailedError, fetch_closure
from nixfetch.fetch.kept import Kept
from nixfetch.store import LocalStore
from simulated_cache import POLICY, Missing, SimulatedCache, store_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nixfetch.cache import Found
    from nixfetch.formats.storepath import StorePath

SIZE = LARGE_FILE + 200  # bytes, more or less, of each NAR


class Downloads:
    """Large NARs that are downloaded, and whose partial files are there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.cache = SimulatedCache()
        memory = Memory(None, Partials(folder, spare=0))
        self.group = CacheGroup([BinaryCache(self.cache, memory=memory)])

    def add(self, name: str) -> Found:
        path = self.cache.add(name, Random(name).randbytes(LARGE_FILE))
        found = self.group.find(path, POLICY)
        with found.cache.nar(found.trusted) as download:
            for _ in download:
                pass
        return found

    @property
    def count(self) -> int:
        return len(list(self._folder.iterdir()))


@pytest.fixture
def downloads(tmp_path: Path) -> Iterator[Downloads]:
    downloads = Downloads(tmp_path / "partial")
    with downloads.group:
        yield downloads


def path_of(found: Found) -> StorePath:
    return found.trusted.info.path


def test_downloads_are_kept_until_their_paths_are_registered(downloads: Downloads) -> None:
    kept = Kept(room=100 * SIZE)
    one, two = downloads.add("one"), downloads.add("two")
    kept.keep(one)
    kept.keep(two)
    assert downloads.count == 2
    kept.settle([path_of(one), store_path("another")])
    assert downloads.count == 1
    kept.settle([path_of(two)])
    assert downloads.count == 0


def test_not_where_the_closure_needs_the_room(downloads: Downloads) -> None:
    kept = Kept(room=4 * SIZE)
    kept.need(2 * SIZE)
    kept.keep(downloads.add("one"))
    assert downloads.count == 1
    kept.need(2 * SIZE)
    assert downloads.count == 0
    kept.keep(downloads.add("two"))
    assert downloads.count == 0


def fetched(folder: Path, cache: SimulatedCache, path: StorePath) -> list[int]:
    """How many downloads are kept after each path that is registered, and at the end."""
    partial = folder / "partial"
    counts: list[int] = []

    def count() -> None:
        counts.append(len(list(partial.iterdir())) if partial.exists() else 0)

    def on_event(event: Event) -> None:
        if isinstance(event, Fetched):
            count()

    memory = Memory(None, Partials(partial, spare=0))
    with (
        CacheGroup([BinaryCache(cache, memory=memory, sleep=lambda _: None)]) as group,
        LocalStore(folder / "store") as store,
    ):
        try:
            fetch_closure([path], caches=group, policy=POLICY, store=store, on_event=on_event)
        finally:
            count()
    return counts


def test_a_run_leaves_none(tmp_path: Path) -> None:
    cache = SimulatedCache()
    low = cache.add("low", Random(1).randbytes(LARGE_FILE))
    top = cache.add("top", Random(2).randbytes(LARGE_FILE), references=[low])
    assert fetched(tmp_path, cache, top)[-1] == 0


def test_but_for_what_waits_for_something_that_fails(tmp_path: Path) -> None:
    """The next run has it all, and asks for nothing of it."""
    cache = SimulatedCache()
    low = cache.add("low")
    top = cache.add("top", Random(2).randbytes(LARGE_FILE), references=[low])
    cache.faults[cache.nar_name(low)] = Missing()
    with pytest.raises(FetchFailedError):
        fetched(tmp_path, cache, top)
    cache.faults.clear()
    cache.requests.clear()
    assert fetched(tmp_path, cache, top)[-1] == 0
    assert cache.opened_nars == [cache.nar_name(low)]
