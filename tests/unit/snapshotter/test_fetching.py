from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import nixfetch
from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.cache.memo import Memo
from nixfetch.cache.memory import Memory
from simulated_cache import POLICY, SimulatedCache
from snapshotter.fetching import Counted, Fetcher, Source
from snapshotter.labels import NixLayer
from snapshotter.metrics import Metrics
from snapshotter.substitute import Substitute

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class World:
    def __init__(self, store: nixfetch.LocalStore, place: Path) -> None:
        self.place = place
        self.cache, self.metrics = SimulatedCache(), Metrics()
        self.opened = 0
        source = Source(open_caches=self._open, policy=POLICY)
        fetcher = Fetcher(source, self.metrics)
        self.closures = Counted(Substitute(store, fetcher), fetcher, self.metrics)

    def _open(self, refresh: bool) -> CacheGroup:
        self.opened += 1
        memory = Memory(Memo(self.place / "memo"), refresh=refresh)
        retry = nixfetch.RetrySchedule(tries=1)
        caches = [BinaryCache(self.cache, retry=retry, memory=memory)]
        return CacheGroup(caches, on_close=memory.close)

    def ensure(self, *paths: Any) -> tuple[nixfetch.StorePath, ...]:
        layer = NixLayer(paths=paths)
        return self.closures.ensure(layer, root="r", cancelled=lambda: False)

    def count(self, name: str) -> int:
        lines = self.metrics.render({}).splitlines()
        (line,) = (line for line in lines if line.startswith(f"nixfetch_snapshotter_{name} "))
        return int(line.rpartition(" ")[2])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with nixfetch.LocalStore(tmp_path / "store", durable=False) as store:
        yield World(store, tmp_path)


def test_fetches_are_counted_and_so_is_what_was_there(world: World) -> None:
    words = world.cache.add("words.txt", b"words")
    app = world.cache.add("app", {b"f": b"x"}, references=[words])
    assert world.ensure(app) == tuple(sorted([app, words]))
    assert world.count('paths_total{result="fetched"}') == 2
    assert world.count('paths_total{result="present"}') == 0
    assert world.count('fetches_total{result="done"}') == 1
    assert world.count('bytes_total{what="downloaded"}') > 0
    world.ensure(app)
    assert world.count('paths_total{result="fetched"}') == 2
    assert world.count('paths_total{result="present"}') == 2
    assert world.opened == 1


def test_caches_are_opened_anew_for_each_fetch(world: World) -> None:
    world.ensure(world.cache.add("a", b"a"))
    world.ensure(world.cache.add("b", b"b"))
    assert world.opened == 2


def test_failures_are_counted(world: World) -> None:
    path = world.cache.add("a", b"a")
    world.cache.objects.clear()
    with pytest.raises(nixfetch.FetchFailedError):
        world.ensure(path)
    assert world.count('fetches_total{result="failed"}') == 1
    assert world.count('paths_total{result="failed"}') == 1
    layer = NixLayer(paths=(path,))
    with pytest.raises(nixfetch.CancelledError):
        world.closures.ensure(layer, root="r", cancelled=lambda: True)
    assert world.count('fetches_total{result="done"}') == 0


def test_what_a_cache_lacked_lately_it_may_have_now(world: World) -> None:
    path = world.cache.add("late", b"late")
    later = dict(world.cache.objects)
    world.cache.objects.clear()
    with pytest.raises(nixfetch.FetchFailedError):
        world.ensure(path)
    world.cache.objects.update(later)
    assert world.ensure(path) == (path,)
    assert world.opened == 3


def test_all_else_is_passed_on(world: World) -> None:
    path = world.cache.add("a", b"a")
    world.ensure(path)
    assert world.closures.roots() == {"r"}
    ((found, source),), links = world.closures.located([path])
    assert found == path
    assert source.endswith(path.base)
    assert links == ()
    world.closures.unroot("r")
    world.closures.root("s", [path])
    assert world.closures.roots() == {"s"}
