"""What is done where the machine has few threads for us, or none."""

from __future__ import annotations

import queue
import time
from typing import TYPE_CHECKING

import pytest

from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.cache.race import Lanes, race
from nixfetch.fetch.pool import Crash, NoThreadsError, Pool
from nixfetch.store import LocalStore
from nixfetch.transport.deadline import Deadline, in_time
from simulated_cache import SimulatedCache
from threads import no_more_threads
from unit.fetch.runs import fetch, names_in

if TYPE_CHECKING:
    from pathlib import Path


def test_a_pool_does_with_those_that_it_has() -> None:
    results: queue.SimpleQueue[int | Crash] = queue.SimpleQueue()
    pool = Pool[int]("test", 5, results)
    pool.submit(lambda: 0)
    with no_more_threads():
        for number in range(1, 5):
            pool.submit(lambda number=number: number)  # type: ignore[misc] # bound now
    assert [results.get(timeout=10) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert pool.close(deadline=time.monotonic() + 10)


def test_a_pool_without_any() -> None:
    pool = Pool[int]("test", 5, queue.SimpleQueue())
    with no_more_threads(), pytest.raises(NoThreadsError, match="cannot start a thread") as caught:
        pool.submit(lambda: 0)
    assert caught.value.exit_code == 6
    assert pool.close(deadline=time.monotonic() + 10)


def test_a_run_without_any_leaves_nothing(tmp_path: Path) -> None:
    cache = SimulatedCache()
    path = cache.add("a")
    with LocalStore(tmp_path) as store:
        with no_more_threads(), pytest.raises(NoThreadsError):
            fetch(store, cache, [path])
        fetch(store, cache, [path])
        assert names_in(store) == [path.base]


def test_caches_are_asked_for_their_priority_one_after_the_other() -> None:
    caches = [
        BinaryCache(SimulatedCache(url=f"simulated://{priority}", priority=priority))
        for priority in (3, 1, 2)
    ]
    with no_more_threads(), CacheGroup(caches) as group:
        assert [cache.priority for cache in group.in_order()] == [1, 2, 3]


def test_one_runner_races_alone() -> None:
    with no_more_threads():
        finish = race(["a", "b"], str.upper, cost=len, lanes=Lanes())
    assert (finish.best, finish.order) == ("A", ["a", "b"])


def test_what_should_be_in_time_is_done_without_it() -> None:
    with no_more_threads():
        assert in_time(lambda: "done", Deadline(0.1)) == "done"
