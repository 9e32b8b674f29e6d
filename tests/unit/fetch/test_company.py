"""Several who fetch the same into one store: each path is downloaded once."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from nixfetch.fetch import Report, Status
from nixfetch.store import LocalStore
from simulated_cache import SimulatedCache, Slow, Truncated
from unit.fetch.runs import consistent, failing_fetch, fetch, graph

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = {
    "a": [],
    "b": ["a"],
    "c": ["a"],
    "d": ["b", "c"],
    "e": ["d", "a"],
}


def test_each_path_is_downloaded_once(tmp_path: Path) -> None:
    cache = SimulatedCache()
    paths = graph(cache, SHAPE)
    reports: list[Report] = []

    def run() -> None:
        with LocalStore(tmp_path) as store:
            reports.append(fetch(store, cache, [paths["e"]]))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(reports) == 4
    assert sorted(cache.opened_nars) == sorted(cache.nar_name(path) for path in paths.values())
    fetched = [
        entry.path
        for report in reports
        for entry in report.paths.values()
        if entry.status is Status.FETCHED
    ]
    assert sorted(fetched) == sorted(paths.values())
    with LocalStore(tmp_path) as store:
        assert consistent(store)
        assert len(store.all_valid()) == len(SHAPE)


def test_a_path_that_another_gives_up_is_taken_over(tmp_path: Path) -> None:
    cache = SimulatedCache()
    paths = graph(cache, {"low": [], "top": ["low"]})
    with LocalStore(tmp_path) as other, LocalStore(tmp_path) as store:
        assert other.try_lock(paths["low"])
        timer = threading.Timer(0.3, other.unlock, [paths["low"]])
        timer.start()
        report = fetch(store, cache, [paths["top"]])
        timer.join()
        assert all(entry.status is Status.FETCHED for entry in report.paths.values())


def test_what_waits_for_anothers_path_settles(tmp_path: Path) -> None:
    cache = SimulatedCache()
    paths = graph(cache, {"low": [], "top": ["low"]})
    gate = threading.Event()
    slow = SimulatedCache(url="simulated://slow")
    slow.infos, slow.objects = cache.infos, cache.objects
    slow.faults[slow.nar_name(paths["low"])] = Slow(gate, 10)

    def other() -> None:
        with LocalStore(tmp_path) as store:
            fetch(store, slow, [paths["low"]])

    thread = threading.Thread(target=other)
    thread.start()
    while slow.nar_name(paths["low"]) not in slow.opened:
        pass
    threading.Timer(0.3, gate.set).start()
    with LocalStore(tmp_path) as store:
        report = fetch(store, cache, [paths["top"]])
        thread.join()
        assert report.paths[paths["low"]].status is Status.PRESENT
        assert report.paths[paths["top"]].status is Status.FETCHED
        assert cache.nar_name(paths["low"]) not in cache.opened


def test_runs_of_two_threads_in_one_open_store(tmp_path: Path) -> None:
    cache = SimulatedCache()
    paths = graph(cache, {"a": [], "b": ["a"], "c": ["a", "b"], "d": ["b"]}, size=10_000)
    reports: list[Report] = []
    with LocalStore(tmp_path) as store:

        def run(name: str) -> None:
            reports.append(fetch(store, cache, [paths[name]]))

        threads = [threading.Thread(target=run, args=[name]) for name in "cdcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(reports) == 4
        assert all(not report.failures for report in reports)
        assert consistent(store)
        assert len(store.all_valid()) == len(paths)


def test_what_an_earlier_run_left_in_an_open_store_settles(tmp_path: Path) -> None:
    cache = SimulatedCache()
    paths = graph(cache, {"low": [], "top": ["low"]})
    cache.faults[cache.nar_name(paths["low"])] = Truncated(10)
    with LocalStore(tmp_path) as store:
        failing_fetch(store, cache, [paths["top"]])
        assert store.unsettled() == [paths["top"]]
        del cache.faults[cache.nar_name(paths["low"])]
        report = fetch(store, cache, [paths["low"]])
        assert list(report.paths) == [paths["low"]]
        assert store.valid(paths.values()) == set(paths.values())
