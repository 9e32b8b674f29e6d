from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import places
from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.fetch.path import Gauge, unpack
from nixfetch.fetch.report import PathReport, Status
from nixfetch.store import LocalStore
from simulated_cache import POLICY, CutAfter, FlippedByte, SimulatedCache, store_path

if TYPE_CHECKING:
    from pathlib import Path


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def test_a_gauge_tells_at_once_and_then_now_and_then() -> None:
    clock, told = Clock(), list[tuple[int, int]]()
    gauge = Gauge(lambda *sizes: told.append(sizes), now=clock)
    gauge.downloaded(10)
    gauge.unpacked(20)
    assert told == [(10, 20)]
    for _ in range(3):
        gauge.downloaded(1)
        gauge.unpacked(2)
    assert told == [(10, 20)]
    clock.time += 0.2
    gauge.unpacked(2)
    assert told[1:] == [(3, 8)]
    gauge.downloaded(5)
    gauge.flush()
    gauge.flush()
    assert told[2:] == [(5, 0)]
    assert gauge.total == 18


def test_unpack_counts_what_was_in_vain(tmp_path: Path) -> None:
    caches = [SimulatedCache(priority=number, chunk_size=1000) for number in (1, 2, 3)]
    path = store_path("a")
    for cache in caches:
        cache.add("a", bytes(5000))
        cache.faults[cache.nar_name(path)] = FlippedByte(4000)
    caches[2].faults[caches[2].nar_name(path)] = CutAfter(3000)
    told: list[tuple[int, int]] = []
    tried: list[str] = []
    with (
        CacheGroup([BinaryCache(cache, sleep=lambda _: None) for cache in caches]) as group,
        LocalStore(tmp_path) as store,
    ):
        unpacked = unpack(
            group.find(path, POLICY),
            caches=group,
            policy=POLICY,
            store=store,
            gauge=Gauge(lambda *sizes: told.append(sizes), now=Clock()),
            started=lambda found: tried.append(found.cache.url),
        )
        assert store.settle() == [path]
    size = caches[0].infos[path].nar_size
    assert unpacked.attempts == len(tried) == 3
    assert unpacked.downloaded == sum(down for down, _ in told) == 3 * size
    assert unpacked.seconds >= 0


def test_a_checkpoint_may_give_up(tmp_path: Path) -> None:
    cache = SimulatedCache(chunk_size=1000)
    path = cache.add("a", bytes(5000))
    left = [3]

    def checkpoint() -> None:
        left[0] -= 1
        if not left[0]:
            raise InterruptedError

    with CacheGroup([BinaryCache(cache)]) as group, LocalStore(tmp_path) as store:
        with pytest.raises(InterruptedError):
            unpack(
                group.find(path, POLICY),
                caches=group,
                policy=POLICY,
                store=store,
                gauge=Gauge(lambda *_: None, now=Clock()),
                checkpoint=checkpoint,
            )
        assert places.names(store.layout.store) == []
    assert cache.open_bodies == 0


def test_a_path_says_on_whose_word_it_is_believed() -> None:
    report = PathReport(path=store_path("a"), status=Status.FETCHED)
    assert report.vouched_for == "unsigned"
    report.signed_by = ("one-1", "two-1")
    assert report.vouched_for == "signed by one-1, two-1"
    report.content_addressed = True
    assert report.vouched_for == "content-addressed and signed by one-1, two-1"
