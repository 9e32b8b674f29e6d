"""Paths and closures from caches that fail in the middle of a run."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest

import places
from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.cache.memory import LARGE_FILE, Memory
from nixfetch.cache.partial import Partials, key
from nixfetch.errors import NixfetchError, TransportError, TrustError
from nixfetch.fetch import fetch_closure
from nixfetch.fetch.path import Gauge, Unpacked, unpack
from nixfetch.formats.hashes import sha256
from nixfetch.store import LocalStore
from simulated_cache import (
    POLICY,
    CutAfter,
    Fault,
    FlippedByte,
    Forbidden,
    Html,
    Missing,
    Refused,
    SimulatedCache,
    Unauthorized,
    Unsigned,
    store_path,
    tree_nar,
)
from unit.fetch.runs import failing_fetch, fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath
    from nixfetch.transport.base import Body, Pace, Range

PATIENCE = 30.0  # seconds; a busy machine
MANY = 10**6
TREE = {b"large": Random(1).randbytes(LARGE_FILE)}
NAR = tree_nar(TREE)


# A restart.


class Restarting:
    """Refuses one NAR, and breaks off another one once somebody waits for it to come back."""

    url = "simulated://restarting"

    def __init__(self, cache: SimulatedCache, *, broken: str, refused: str) -> None:
        self._cache, self._broken, self._refused = cache, broken, refused
        self._asked: list[str] = []
        self._reading, self._looking = threading.Event(), threading.Event()

    @contextmanager
    def open(
        self, name: str, wanted: Range | None = None, *, pace: Pace | None = None
    ) -> Iterator[Body]:
        is_first = name not in self._asked
        self._asked.append(name)
        if name == self._refused and is_first:
            assert self._reading.wait(PATIENCE)
            raise TransportError("down", retryable=True)
        with self._cache.open(name, wanted, pace=pace) as body:
            if name == self._broken and is_first:
                body = replace(body, chunks=self._break_off(body.chunks))  # noqa: PLW2901 - half of it
            yield body

    def _break_off(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        yield next(chunks)
        self._reading.set()
        assert self._looking.wait(PATIENCE)
        raise TransportError("down", retryable=True)

    def sleep(self, _: float) -> None:
        self._looking.set()

    def close(self) -> None:
        pass


def test_who_waits_for_a_cache_to_come_back_leaves_its_place_to_others(tmp_path: Path) -> None:
    """Who looks if it is back needs the one place to decode; who had it waits for who looks."""
    cache = SimulatedCache(chunk_size=1000)
    large, small = cache.add("large", bytes(9000)), cache.add("small", bytes(5000))
    remote = Restarting(cache, broken=cache.nar_name(large), refused=cache.nar_name(small))
    valid: list[set[StorePath]] = []

    def run() -> None:
        group = CacheGroup([BinaryCache(remote, sleep=remote.sleep)])
        with group, LocalStore(tmp_path) as store:
            fetch_closure([large, small], caches=group, policy=POLICY, store=store, jobs=1)
            valid.append(store.valid([large, small]))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert valid == [{large, small}]


# Others in front of a good one.

BAD: dict[str, Fault] = {
    "busy": Refused(times=MANY),
    "broken": Refused(times=MANY, retryable=False),
    "wants to be left alone": Refused(times=MANY, retry_after=50),
    "empty": Missing(),
    "no entry": Forbidden(),
    "who are you": Unauthorized(),
    "a page for people": Html(),
}
OF_NARINFOS: dict[str, Fault] = {"unsigned": Unsigned()}
OF_NARS: dict[str, Fault] = {
    "busy": Refused(times=MANY),
    "gone": Missing(),
    "broken off": CutAfter(10, times=MANY),
    "wrong": FlippedByte(-1),
}


def closure(cache: SimulatedCache, size: int = 30) -> list[StorePath]:
    paths: list[StorePath] = []
    for number in range(size):
        tree = bytes([number]) * 1000
        paths.append(cache.add(f"path-{number}", tree, references=paths[-2:], compression="xz"))
    return paths


def bad_caches() -> list[SimulatedCache]:
    caches = [SimulatedCache(url=f"simulated://{name}", fault=BAD[name]) for name in BAD]
    for faults, name_of in (
        (OF_NARINFOS, SimulatedCache.narinfo_name),
        (OF_NARS, SimulatedCache.nar_name),
    ):
        for name, fault in faults.items():
            cache = SimulatedCache(url=f"simulated://{name}-{name_of.__name__}")
            for path in closure(cache):
                cache.faults[name_of(cache, path)] = fault
            caches.append(cache)
    return caches


def test_all_kinds_of_bad_caches_in_front_of_a_good_one(tmp_path: Path) -> None:
    bad, good = bad_caches(), SimulatedCache()
    paths = closure(good)
    clients = [
        BinaryCache(each, priority=number, sleep=lambda _: None)
        for number, each in enumerate([*bad, good])
    ]
    group = CacheGroup(clients)
    with group, LocalStore(tmp_path) as store:
        fetch_closure(paths[-1:], caches=group, policy=POLICY, store=store, jobs=4)
        assert store.valid(paths) == set(paths)
    for cache in bad:
        # Others than dead ones go on answering, as long as they do not say nonsense.
        if cache.fault not in {Missing(), Forbidden()}:
            assert len(cache.opened_nars) <= 60, cache.url
            assert len(cache.opened_narinfos) <= 60, cache.url


@pytest.mark.parametrize("name", BAD)
def test_alone(tmp_path: Path, name: str) -> None:
    cache = SimulatedCache()
    paths = closure(cache, 3)
    cache.fault = BAD[name]
    with LocalStore(tmp_path) as store:
        error = failing_fetch(store, cache, paths[-1:])
    codes = {"empty": 3, "a page for people": 4}
    assert error.exit_code == codes.get(name, 5)


def test_a_path_that_only_the_slow_cache_has(tmp_path: Path) -> None:
    """It is passed over for its NAR, and asked again when nobody else has that."""
    slow, quick = SimulatedCache(priority=1), SimulatedCache(priority=2)
    path = slow.add("a", bytes(5000))
    slow.faults[slow.nar_name(path)] = Refused(times=2, retry_after=40)
    with LocalStore(tmp_path) as store:
        report = fetch(store, [slow, quick], [path])
        assert store.valid([path])
    assert report.paths[path].attempts == 2


# Parts of two objects.


def unpacked(
    caches: list[SimulatedCache],
    path: StorePath,
    folder: Path,
    *,
    checkpoint: Callable[[], None] = lambda: None,
) -> Unpacked:
    memory = Memory(None, Partials(folder / "partial", spare=0))
    group = CacheGroup(
        [BinaryCache(cache, memory=memory, sleep=lambda _: None) for cache in caches]
    )
    with group, LocalStore(folder / "store") as store:
        done = unpack(
            group.find(path, POLICY),
            caches=group,
            policy=POLICY,
            store=store,
            gauge=Gauge(lambda *_: None, now=lambda: 0.0),
            checkpoint=checkpoint,
        )
        assert store.settle() == [path]
        if done.kept:
            done.found.cache.forget_download(done.found.trusted)
    assert not list((folder / "partial").glob("*"))
    return done


def spoil(folder: Path) -> None:
    """A partial file as a power cut leaves it."""
    partial = Partials(folder / "partial", spare=0).claim(key(sha256(NAR), "", ""))
    assert partial is not None
    with partial:
        partial.restart(None)
        partial.append(NAR[:1000] + bytes(LARGE_FILE // 2 - 1000))


def starts(cache: SimulatedCache) -> list[int]:
    """Where each request for a NAR begins."""
    return [
        0 if request.wanted is None else request.wanted.start
        for request in cache.requests
        if request.name.startswith("nar/")
    ]


def test_what_was_put_together_wrongly_is_fetched_anew_before_anybody_is_blamed(
    tmp_path: Path,
) -> None:
    caches = [SimulatedCache(priority=1), SimulatedCache(priority=2)]
    path = {cache.add("a", TREE) for cache in caches}.pop()
    spoil(tmp_path)
    done = unpacked(caches, path, tmp_path)
    assert done.attempts == 1
    assert starts(caches[0]) == [LARGE_FILE // 2, 0]
    assert caches[1].opened_nars == []


def test_once_and_then_the_next_cache_is_asked(tmp_path: Path) -> None:
    caches = [SimulatedCache(priority=1), SimulatedCache(priority=2)]
    path = {cache.add("a", TREE) for cache in caches}.pop()
    caches[0].faults[caches[0].nar_name(path)] = FlippedByte(-1)
    spoil(tmp_path)
    done = unpacked(caches, path, tmp_path)
    assert done.attempts == 2
    assert starts(caches[0]) == [LARGE_FILE // 2, 0]
    assert starts(caches[1]) == [0]


def test_what_broke_off_and_went_on_in_another_file(tmp_path: Path) -> None:
    """The remote names no versions, and has another file by the second request."""
    cache = SimulatedCache(chunk_size=1000)
    path = cache.add("a", bytes(9000))
    name = cache.nar_name(path)
    right = cache.objects[name]
    cache.objects[name] = right[:1000] + b"x" * (len(right) - 1000)
    cache.faults[name] = CutAfter(3000)

    def change(_: object = None) -> None:
        if len(cache.opened_nars) == 1:
            cache.objects[name] = right

    done = unpacked([cache], path, tmp_path, checkpoint=change)
    assert done.attempts == 1
    assert starts(cache) == [0, 3000, 0]


def test_an_interrupted_run_is_gone_on_with(tmp_path: Path) -> None:
    cache = SimulatedCache()
    path = cache.add("a", TREE)
    chunks = [0]

    def stop() -> None:
        chunks[0] += 1
        if chunks[0] == 33:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpacked([cache], path, tmp_path, checkpoint=stop)
    assert places.names(tmp_path / "store/nix/store") == []
    done = unpacked([cache], path, tmp_path)
    assert starts(cache) == [0, 33 * cache.chunk_size]
    assert done.downloaded == len(NAR) - 33 * cache.chunk_size


@pytest.mark.parametrize("named", [True, False])
def test_of_what_another_cache_gave_in_the_end_nothing_is_left(
    tmp_path: Path, *, named: bool
) -> None:
    """Whether both name the same file, by its hash, or not; `unpacked` looks."""
    one, two = (SimulatedCache(url=f"simulated://{n}", priority=n) for n in (1, 2))
    path = store_path("a")
    for cache in (one, two):
        cache.add("a", TREE)
        if not named:
            cache.publish(replace(cache.infos[path], file_hash=None), key=cache.key)
    one.ranges = False
    one.faults[one.nar_name(path)] = CutAfter(LARGE_FILE // 2, times=100)
    done = unpacked([one, two], path, tmp_path)
    assert done.found.cache.url == two.url
    assert starts(two) == ([LARGE_FILE // 2] if named else [0])


# The file that the narinfo names.


def test_right_content_in_a_wrong_file_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = SimulatedCache()
    path = cache.add("a", b"contents")
    info = replace(cache.infos[path], file_hash=sha256(b"another"), file_size=7)
    cache.publish(info, key=cache.key)
    with caplog.at_level(logging.WARNING), LocalStore(tmp_path) as store:
        fetch(store, cache, [path])
        assert store.valid([path])
    assert f"expected_file_hash={sha256(b'another')}" in caplog.text
    assert "expected_file_size=7" in caplog.text


def test_wrong_content_says_what_of_the_file_is_wrong(tmp_path: Path) -> None:
    cache = SimulatedCache()
    path = cache.add("a", b"contents")
    cache.faults[cache.nar_name(path)] = FlippedByte(100)
    with LocalStore(tmp_path) as store:
        report = failing_fetch(store, cache, [path]).report
    error = report.paths[path].error
    assert isinstance(error, NixfetchError)
    assert isinstance(error, TrustError)
    assert error.facts["expected_file_hash"] == str(cache.infos[path].file_hash)
    assert "file_hash" in error.facts
    assert "expected" in error.facts


# Who is told of.


def test_a_cache_that_gives_damaged_nars_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = SimulatedCache(url="simulated://bad", priority=1), SimulatedCache(priority=2)
    paths = [{cache.add(name, b"data") for cache in (bad, good)}.pop() for name in ("a", "b")]
    for path in paths:
        bad.faults[bad.nar_name(path)] = FlippedByte(-1)
    with caplog.at_level(logging.INFO), LocalStore(tmp_path) as store:
        fetch(store, [bad, good], paths, jobs=1)
        assert store.valid(paths) == set(paths)
    told = [record for record in caplog.records if "is no good, and" in record.getMessage()]
    assert sorted(record.levelno for record in told) == [logging.INFO, logging.WARNING]
    for record in told:
        assert record.getMessage().startswith(f"{bad.url}: ")
        assert good.url in record.getMessage()


def test_one_alone_is_an_error_and_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = SimulatedCache()
    path = cache.add("a", b"data")
    cache.faults[cache.nar_name(path)] = FlippedByte(-1)
    with caplog.at_level(logging.WARNING), LocalStore(tmp_path) as store:
        failing_fetch(store, cache, [path])
    assert caplog.records == []
