from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixfetch.errors import StoreError
from nixfetch.fetch import Event, FetchFailedError, Found, Started, Status, Walked
from nixfetch.fetch.closure import MissingReferencesError
from nixfetch.formats.contentaddress import Method
from nixfetch.plan.closure import CycleError
from nixfetch.plan.trust import TrustPolicy
from nixfetch.store import LocalStore
from simulated_cache import (
    KEY,
    OTHER_KEY,
    Compression,
    Fault,
    FlippedByte,
    Html,
    Missing,
    Refused,
    SignedBy,
    SimulatedCache,
    Truncated,
    Unsigned,
    WrongPath,
    store_path,
)
from unit.fetch.runs import check_events, consistent, failing_fetch, fetch, graph, names_in
from unit.store.disk_trees import memory_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BROKEN = Refused(times=100, retryable=False)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore(tmp_path / "root") as store:
        yield store


@pytest.fixture
def cache() -> SimulatedCache:
    return SimulatedCache()


# All goes well.

graphs = st.integers(1, 8).flatmap(
    lambda size: st.tuples(*(st.sets(st.integers(0, number)) for number in range(size)))
)


@given(
    edges=graphs,
    asked=st.sets(st.integers(0, 7), min_size=1),
    present=st.sets(st.integers(0, 7), max_size=2),
    jobs=st.integers(1, 3),
)
def test_any_closure_ends_valid(
    edges: tuple[set[int], ...], asked: set[int], present: set[int], jobs: int
) -> None:
    cache = SimulatedCache()
    names = {str(number): list(map(str, others)) for number, others in enumerate(edges)}
    paths = graph(cache, names)
    roots = [paths[str(number % len(edges))] for number in sorted(asked)]
    before = [paths[str(number % len(edges))] for number in sorted(present)]
    with memory_directory() as root, LocalStore(root) as store:
        fetch(store, cache, before)
        there = set(store.all_valid())
        cache.requests.clear()
        events: list[Event] = []
        report = fetch(store, cache, roots, jobs=jobs, on_event=events.append)
        check_events(events, report)
        assert consistent(store)
        assert store.valid(roots) == set(roots)
        assert names_in(store) == [path.base for path in store.all_valid()]
        fetched = {path for path in report.paths if path not in there}
        assert set(store.all_valid()) == there | fetched
        # One question a path, and no NAR before its narinfo; what is there is not asked for.
        assert sorted(cache.opened_narinfos) == sorted(map(cache.narinfo_name, fetched))
        assert sorted(cache.opened_nars) == sorted(map(cache.nar_name, fetched))
        for path in fetched:
            narinfo = cache.opened.index(cache.narinfo_name(path))
            assert narinfo < cache.opened.index(cache.nar_name(path))


def test_the_report(store: LocalStore, cache: SimulatedCache) -> None:
    paths = graph(cache, {"low": [], "top": ["low", "top"]})
    text = cache.add("text", b"text", ca=Method.TEXT)
    fetch(store, cache, [paths["low"]])
    report = fetch(store, cache, [paths["top"], text, text])
    assert report.requested == (paths["top"], text)
    assert report.store == str(store.root)
    top = report.paths[paths["top"]]
    info = cache.infos[paths["top"]]
    assert (top.status, top.cache, top.attempts) == (Status.FETCHED, cache.url, 1)
    assert (top.nar_size, top.file_size) == (info.nar_size, info.file_size)
    assert (top.signed_by, top.content_addressed) == ((KEY.name,), False)
    assert report.paths[paths["low"]].status is Status.PRESENT
    assert report.paths[text].content_addressed
    assert report.paths[text].signed_by == ()
    assert report.bytes_unpacked == info.nar_size + cache.infos[text].nar_size
    assert info.file_size is not None
    assert report.bytes_downloaded == info.file_size + (cache.infos[text].file_size or 0)
    assert report.failures == []
    document = json.loads(json.dumps(report.to_json()))
    assert [entry["status"] for entry in document["paths"]].count("fetched") == 2
    assert document["requested"] == [str(paths["top"]), str(text)]


def test_totals_are_known_when_all_is_walked(store: LocalStore, cache: SimulatedCache) -> None:
    paths = graph(cache, {"low": [], "top": ["low"]})
    info = cache.infos[paths["low"]]
    cache.publish(replace(info, file_size=None), key=KEY)
    events: list[Event] = []
    fetch(store, cache, [paths["top"]], on_event=events.append)
    [walked] = [event for event in events if isinstance(event, Walked)]
    top = cache.infos[paths["top"]]
    assert walked.paths == 2
    assert walked.nar_size == info.nar_size + top.nar_size
    assert walked.file_size == info.nar_size + (top.file_size or 0)


def test_nothing_to_do(store: LocalStore, cache: SimulatedCache) -> None:
    paths = graph(cache, {"low": [], "top": ["low"]})
    fetch(store, cache, paths.values())
    cache.requests.clear()
    events: list[Event] = []
    report = fetch(store, cache, [paths["top"]], on_event=events.append)
    check_events(events, report)
    assert list(report.paths) == [paths["top"]]  # what it refers to is valid too, by invariant
    assert cache.requests == []
    assert fetch(store, cache, []).paths == {}


@pytest.mark.parametrize("compression", ["none", "xz", "zstd", "gzip"])
def test_every_compression(
    store: LocalStore, cache: SimulatedCache, compression: Compression
) -> None:
    path = cache.add("a", {b"large": bytes(500_000)}, compression=compression)
    fetch(store, cache, [path])
    assert store.all_valid() == [path]


# Trust.


@pytest.mark.parametrize(
    "fault", [Unsigned(), SignedBy(OTHER_KEY), Html(), WrongPath(store_path("other"))]
)
def test_no_nar_is_asked_for_on_the_word_of_a_claim(
    store: LocalStore, cache: SimulatedCache, fault: Fault
) -> None:
    cache.add("other")
    path = cache.add("a")
    cache.faults[cache.narinfo_name(path)] = fault
    error = failing_fetch(store, cache, [path])
    assert error.exit_code == 4
    assert cache.opened_narinfos == [cache.narinfo_name(path)]
    assert cache.opened_nars == []
    assert store.all_valid() == []
    assert names_in(store) == []


def test_nor_for_an_untrusted_reference(store: LocalStore, cache: SimulatedCache) -> None:
    paths = graph(cache, {"low": [], "top": ["low"]})
    cache.faults[cache.narinfo_name(paths["low"])] = Unsigned()
    failing_fetch(store, cache, [paths["top"]])
    assert cache.opened_nars in ([cache.nar_name(paths["top"])], [])


def test_two_signatures_where_two_are_needed(store: LocalStore, cache: SimulatedCache) -> None:
    path = cache.add("a")
    policy = TrustPolicy((KEY.public(), OTHER_KEY.public()), needed=2)
    with pytest.raises(FetchFailedError):
        fetch(store, cache, [path], policy=policy)
    info = cache.infos[path]
    both = tuple(key.sign(info.fingerprint()) for key in (KEY, OTHER_KEY))
    cache.publish(replace(info, signatures=both), key=None)
    report = fetch(store, cache, [path], policy=policy)
    assert report.paths[path].signed_by == (OTHER_KEY.name, KEY.name)


# Something fails.


@pytest.mark.parametrize(
    ("fault", "code"), [(Missing(), 3), (BROKEN, 5), (Unsigned(), 4), (Html(), 4)]
)
def test_referrers_of_what_failed_fail_and_the_rest_is_valid(
    store: LocalStore, cache: SimulatedCache, fault: Fault, code: int
) -> None:
    edges = {"low": [], "good": [], "middle": ["low", "good"], "top": ["middle"], "apart": ["good"]}
    paths = graph(cache, edges)
    cache.faults[cache.narinfo_name(paths["low"])] = fault
    error = failing_fetch(store, cache, [paths["top"], paths["apart"]])
    assert error.exit_code == code
    assert set(store.all_valid()) == {paths["good"], paths["apart"]}
    failed = {entry.path: entry for entry in error.report.failures}
    assert set(failed) == {paths["low"], paths["middle"], paths["top"]}
    low = failed[paths["low"]].error
    assert low is not None
    assert low.facts["needed_by"] == [str(paths["top"]), str(paths["middle"])]
    for name, lacking in (("middle", "low"), ("top", "middle")):
        missing = failed[paths[name]].error
        assert isinstance(missing, MissingReferencesError)
        assert missing.facts["references"] == [str(paths[lacking])]
        assert missing.exit_code == code
        assert missing.hint is None
    # What waits for a reference is there once that comes, in the same store.
    del cache.faults[cache.narinfo_name(paths["low"])]
    fetch(store, cache, [paths["top"]])
    assert set(store.all_valid()) == set(paths.values())


def test_an_asked_path_that_fails_has_no_chain(store: LocalStore, cache: SimulatedCache) -> None:
    error = failing_fetch(store, cache, [store_path("a")])
    [failed] = error.report.failures
    assert failed.error is not None
    assert "needed_by" not in failed.error.facts
    assert error.exit_code == 3
    assert error.facts == {"failed": 1}


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        ([Missing(), BROKEN, Unsigned()], 4),
        ([Missing(), BROKEN], 5),
        ([BROKEN, Missing()], 5),
        ([Missing()], 3),
    ],
)
def test_the_gravest_failure_is_the_exit_code(
    store: LocalStore, cache: SimulatedCache, faults: list[Fault], code: int
) -> None:
    paths = [cache.add(str(number)) for number in range(len(faults))]
    for path, fault in zip(paths, faults, strict=True):
        cache.faults[cache.narinfo_name(path)] = fault
    assert failing_fetch(store, cache, paths).exit_code == code


@pytest.mark.parametrize(
    ("fault", "code"), [(Missing(), 3), (FlippedByte(), 4), (Truncated(50), 4), (BROKEN, 5)]
)
def test_a_nar_that_no_cache_has_whole(
    store: LocalStore, cache: SimulatedCache, fault: Fault, code: int
) -> None:
    paths = graph(cache, {"low": [], "top": ["low"]})
    cache.faults[cache.nar_name(paths["low"])] = fault
    error = failing_fetch(store, cache, [paths["top"]])
    assert error.report.paths[paths["low"]].status is Status.FAILED
    assert error.exit_code == code
    assert store.all_valid() == []
    assert set(store.unsettled()) == {paths["top"]}


def test_a_circle(store: LocalStore, cache: SimulatedCache) -> None:
    paths = graph(cache, {"good": [], "a": ["b", "good"], "b": ["c"], "c": ["a"], "above": ["a"]})
    with pytest.raises(CycleError) as caught:
        fetch(store, cache, [paths["above"]])
    assert set(map(str, (paths["a"], paths["b"], paths["c"]))) <= set(
        caught.value.facts["paths"]  # type: ignore[call-overload] # a list
    )
    assert store.all_valid() == [paths["good"]]


def test_a_disk_error_ends_the_run(store: LocalStore, cache: SimulatedCache) -> None:
    paths = graph(cache, {"low": [], "top": ["low"]})

    def on_event(event: Event) -> None:
        if isinstance(event, Found) and event.path == paths["top"]:
            shutil.rmtree(store.layout.store)  # before the first NAR is asked for

    with pytest.raises(StoreError, match="no such file or directory") as caught:
        fetch(store, cache, [paths["top"]], on_event=on_event)
    assert caught.value.exit_code == 6
    assert store.all_valid() == []


# Without the closure.


def test_alone_with_valid_references(store: LocalStore, cache: SimulatedCache) -> None:
    paths = graph(cache, {"low": [], "top": ["low"]})
    fetch(store, cache, [paths["low"]])
    cache.requests.clear()
    report = fetch(store, cache, [paths["top"]], whole=False)
    assert list(report.paths) == [paths["top"]]
    assert cache.opened_narinfos == [cache.narinfo_name(paths["top"])]
    assert store.valid(paths.values()) == set(paths.values())


def test_alone_with_its_references_asked_for_as_well(
    store: LocalStore, cache: SimulatedCache
) -> None:
    paths = graph(cache, {"low": [], "top": ["low"]})
    fetch(store, cache, [paths["top"], paths["low"]], whole=False)
    assert store.valid(paths.values()) == set(paths.values())


def test_alone_without_references(store: LocalStore, cache: SimulatedCache) -> None:
    paths = graph(cache, {"one": [], "two": [], "low": ["one"], "top": ["low", "one", "two"]})
    fetch(store, cache, [paths["two"]])
    error = failing_fetch(store, cache, [paths["top"]], whole=False)
    assert error.exit_code == 6
    [failed] = error.report.failures
    assert isinstance(failed.error, MissingReferencesError)
    assert failed.error.facts["references"] == sorted([str(paths["low"]), str(paths["one"])])
    assert failed.error.hint is not None
    assert "--no-closure" in failed.error.hint
    assert store.all_valid() == [paths["two"]]


# Dry runs.


def test_a_dry_run_fetches_nothing(store: LocalStore, cache: SimulatedCache) -> None:
    paths = graph(cache, {"low": [], "top": ["low"]})
    events: list[Event] = []
    report = fetch(store, cache, [paths["top"]], dry_run=True, on_event=events.append)
    check_events(events, report)
    assert {entry.status for entry in report.paths.values()} == {Status.WANTED}
    assert {event.path for event in events if isinstance(event, Found)} == set(paths.values())
    assert cache.opened_nars == []
    assert store.all_valid() == []
    assert names_in(store) == []


def test_a_dry_run_says_what_fails(store: LocalStore, cache: SimulatedCache) -> None:
    paths = graph(cache, {"top": ["low"]})
    error = failing_fetch(store, cache, paths.values(), dry_run=True)
    assert [entry.path for entry in error.report.failures] == [store_path("low")]
    assert error.report.paths[paths["top"]].status is Status.WANTED


# A second cache.


def pair(first: Fault | None, *, narinfo: bool) -> tuple[SimulatedCache, SimulatedCache]:
    caches = (
        SimulatedCache(url="simulated://one", priority=1),
        SimulatedCache(url="simulated://two", priority=2),
    )
    for cache in caches:
        graph(cache, {"low": [], "top": ["low"]})
    path = store_path("low")
    name = caches[0].narinfo_name(path) if narinfo else caches[0].nar_name(path)
    if first is not None:
        caches[0].faults[name] = first
    return caches


@pytest.mark.parametrize(
    "fault", [Missing(), FlippedByte(), FlippedByte(40), Truncated(50), Html(), BROKEN]
)
def test_a_second_cache_heals_a_nar(store: LocalStore, fault: Fault) -> None:
    one, two = pair(fault, narinfo=False)
    events: list[Event] = []
    report = fetch(store, [one, two], [store_path("top")], jobs=1, on_event=events.append)
    check_events(events, report)
    low = report.paths[store_path("low")]
    assert (low.status, low.cache, low.attempts) == (Status.FETCHED, two.url, 2)
    started = [
        event.cache
        for event in events
        if isinstance(event, Started) and event.path == store_path("low")
    ]
    assert started == [one.url, two.url]
    assert set(store.all_valid()) == {store_path("low"), store_path("top")}
    assert two.opened_nars == [two.nar_name(store_path("low"))]


@pytest.mark.parametrize(
    "fault", [Missing(), Unsigned(), SignedBy(OTHER_KEY), Html(), BROKEN, Refused(times=100)]
)
def test_a_second_cache_heals_a_narinfo(store: LocalStore, fault: Fault) -> None:
    one, two = pair(fault, narinfo=True)
    report = fetch(store, [one, two], [store_path("top")])
    low = report.paths[store_path("low")]
    assert (low.status, low.cache, low.attempts) == (Status.FETCHED, two.url, 1)
    assert two.opened_narinfos == [two.narinfo_name(store_path("low"))]
    assert one.nar_name(store_path("low")) not in one.opened


def test_a_second_cache_that_fails_too(store: LocalStore) -> None:
    one, two = pair(FlippedByte(), narinfo=False)
    two.faults[two.narinfo_name(store_path("low"))] = Missing()
    error = failing_fetch(store, [one, two], [store_path("top")])
    low = error.report.paths[store_path("low")].error
    assert low is not None
    assert error.exit_code == 4
    assert low.facts["needed_by"] == [str(store_path("top"))]


def test_a_second_cache_with_other_references(store: LocalStore) -> None:
    one, two = pair(Missing(), narinfo=False)
    extra = two.add("extra", b"more")
    two.add("low", b"another build", references=[extra])
    report = fetch(store, [one, two], [store_path("top")])
    assert report.paths[extra].status is Status.FETCHED
    assert consistent(store)
    assert set(store.all_valid()) == {store_path("low"), store_path("top"), extra}


# Two runs at once.


def test_two_runs_into_one_store(tmp_path: Path, cache: SimulatedCache) -> None:
    paths = graph(cache, {str(n): [str(m) for m in range(n)] for n in range(8)}, size=1000)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with LocalStore(tmp_path) as store:
                fetch(store, cache, [paths["7"]])
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with LocalStore(tmp_path, read_only=True) as store:
        assert store.all_valid() == sorted(paths.values())
        assert names_in(store) == sorted(path.base for path in paths.values())
