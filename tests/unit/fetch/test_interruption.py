from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

import places
import sins
from hostile_server import HostileServer
from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.config.caches import open_caches
from nixfetch.fetch import CancelledError, Event, Found, Started, Walked, fetch_closure
from nixfetch.store import LocalStore
from simulated_cache import POLICY, Refused, SimulatedCache, Slow, store_path
from unit.fetch.runs import consistent, fetch, graph, names_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

EDGES = {"low": [], "other": [], "middle": ["low"], "top": ["middle", "other", "top"]}


@pytest.fixture
def cache() -> SimulatedCache:
    return SimulatedCache()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opened at the end, and then all threads of the run must end."""
    gate = threading.Event()
    yield gate
    gate.set()
    for thread in threading.enumerate():
        if thread.name.startswith("nixfetch-"):
            thread.join(10)
            assert not thread.is_alive()


def interrupt_at(number: int) -> Callable[[Event], None]:
    left = [number]

    def on_event(_: Event) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    return on_event


def test_interrupted_at_any_event(tmp_path: Path, cache: SimulatedCache) -> None:
    paths = graph(cache, EDGES, size=10_000)
    for number in range(1, 1000):
        root = tmp_path / str(number)
        done = False
        with LocalStore(root) as store:
            try:
                fetch(store, cache, [paths["top"]], jobs=2, on_event=interrupt_at(number))
                done = True
            except KeyboardInterrupt:
                assert consistent(store)
        assert cache.open_bodies == 0
        with LocalStore(root) as store:
            assert consistent(store)
            assert names_in(store) == [path.base for path in store.all_valid()]
            fetch(store, cache, [paths["top"]])
            assert set(store.all_valid()) == set(paths.values())
            assert consistent(store)
        if done:
            assert number > 10
            return
    pytest.fail("it never ended")


def test_what_on_event_raises_comes_out(tmp_path: Path, cache: SimulatedCache) -> None:
    def on_event(_: Event) -> None:
        raise LookupError("mine")

    path = cache.add("a")
    with LocalStore(tmp_path) as store, pytest.raises(LookupError, match="mine"):
        fetch(store, cache, [path], on_event=on_event)


def interrupted_run(
    root: Path, cache: SimulatedCache, names: list[str], stop: Callable[[Event], bool]
) -> float:
    """Seconds from the interrupt until the store is closed."""
    begin = [0.0]

    def on_event(event: Event) -> None:
        if stop(event):
            begin[0] = time.monotonic()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), LocalStore(root) as store:
        fetch_closure(
            map(store_path, names),
            caches=CacheGroup([BinaryCache(cache)]),
            policy=POLICY,
            store=store,
            on_event=on_event,
        )
    return time.monotonic() - begin[0]


def test_stalled_nars_hold_nobody_up(
    tmp_path: Path, cache: SimulatedCache, gate: threading.Event
) -> None:
    names = [str(number) for number in range(12)]
    for number, name in enumerate(names):
        path = cache.add(name, bytes(100_000))
        # Before the first byte, and in the middle of a file.
        cache.faults[cache.nar_name(path)] = Slow(gate, 50_000 * (number % 2))
    started: list[Event] = []

    def stop(event: Event) -> bool:
        started.extend([event] if isinstance(event, Started) else [])
        return len(started) == 6

    assert interrupted_run(tmp_path, cache, names, stop) < 5
    gate.set()
    with LocalStore(tmp_path) as store:
        assert store.all_valid() == []
        assert names_in(store) == []


def test_stalled_narinfos_hold_nobody_up(
    tmp_path: Path, cache: SimulatedCache, gate: threading.Event
) -> None:
    names = [str(number) for number in range(12)]
    for name in names[:-1]:
        path = cache.add(name)
        cache.faults[cache.narinfo_name(path)] = Slow(gate)
    cache.add(names[-1])
    seconds = interrupted_run(tmp_path, cache, names, lambda event: isinstance(event, Found))
    assert seconds < 5
    assert not any(name.startswith("nar/") for name in cache.opened)


def test_a_stalled_nar_leaves_room_for_the_others(
    tmp_path: Path, cache: SimulatedCache, gate: threading.Event
) -> None:
    slow, fast = cache.add("slow", bytes(1000)), cache.add("fast")
    cache.faults[cache.nar_name(slow)] = Slow(gate)

    def on_event(event: Event) -> None:
        if not isinstance(event, Walked) and event.path == fast and store.valid([fast]):
            gate.set()  # only once the other one is valid

    with LocalStore(tmp_path) as store:
        fetch(store, cache, [slow, fast], jobs=1, on_event=on_event)
        assert store.valid([slow, fast]) == {slow, fast}


def test_who_waits_for_the_next_try_ends_at_once(tmp_path: Path, cache: SimulatedCache) -> None:
    path = cache.add("a", bytes(100_000))
    cache.faults[cache.nar_name(path)] = Refused(times=9, retry_after=50)
    with LocalStore(tmp_path) as store:
        with CacheGroup([BinaryCache(cache)]) as group, pytest.raises(CancelledError):
            fetch_closure(
                [path],
                caches=group,
                policy=POLICY,
                store=store,
                cancelled=lambda: bool(cache.opened_nars),
            )
        names = [thread.name for thread in threading.enumerate()]
        assert not any(name.startswith("nixfetch-unpack") for name in names)


# Stopped by another thread.


def test_cancelled_at_any_time(tmp_path: Path, cache: SimulatedCache) -> None:
    paths = graph(cache, EDGES, size=10_000)
    for number in range(1000):
        root = tmp_path / str(number)
        left = iter(range(number))
        with LocalStore(root) as store:
            try:
                fetch(
                    store,
                    cache,
                    [paths["top"]],
                    jobs=2,
                    cancelled=lambda left=left: next(left, None) is None,  # type: ignore[misc]
                )
                done = True
            except CancelledError:
                done = False
            assert consistent(store)
        assert cache.open_bodies == 0
        with LocalStore(root) as store:
            assert consistent(store)
            assert names_in(store) == [path.base for path in store.all_valid()]
        if done:
            assert number > 3
            return
    pytest.fail("it never ended")


def test_cancelled_while_all_stalls(
    tmp_path: Path, cache: SimulatedCache, gate: threading.Event
) -> None:
    paths = [cache.add(name, bytes(100_000)) for name in "abc"]
    for number, path in enumerate(paths):
        cache.faults[cache.nar_name(path)] = Slow(gate, 50_000 * (number % 2))
    stop = threading.Event()
    caught: list[BaseException] = []

    def run() -> None:
        with LocalStore(tmp_path) as store:
            try:
                fetch(store, cache, paths, cancelled=stop.is_set)
            except CancelledError as error:
                caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while len(cache.opened_nars) < len(paths):
        time.sleep(0.01)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert len(caught) == 1
    gate.set()
    with LocalStore(tmp_path) as store:
        assert store.all_valid() == []
        assert names_in(store) == []


def test_cancelled_while_a_server_is_silent(tmp_path: Path, cache: SimulatedCache) -> None:
    """No thread is left that holds anything of the store."""
    paths = [cache.add(name, bytes(100_000)) for name in "abc"]
    silence = {"nar/*": sins.stall_at(50_000)}
    with HostileServer(cache.objects, silence) as server, LocalStore(tmp_path) as store:
        with open_caches([server.url]) as group, pytest.raises(CancelledError):
            fetch_closure(
                paths,
                caches=group,
                policy=POLICY,
                store=store,
                cancelled=lambda: server.asked("nar/*") == len(paths),
            )
        names = [thread.name for thread in threading.enumerate()]
        assert not any(name.startswith("nixfetch-unpack") for name in names)
    assert places.names(tmp_path / "nix/store") == []
    assert list((tmp_path / "nix/var/nixfetch/inflight").iterdir()) == []


def test_who_is_cancelled_asks_nobody_any_more(tmp_path: Path, cache: SimulatedCache) -> None:
    """Though the caches stay open, for other runs."""
    paths = [cache.add(name) for name in "abc"]
    with (
        HostileServer(cache.objects, {"*.narinfo": sins.silent}) as server,
        open_caches([server.url]) as group,
    ):
        with LocalStore(tmp_path) as store, pytest.raises(CancelledError):
            fetch_closure(
                paths,
                caches=group,
                policy=POLICY,
                store=store,
                cancelled=lambda: server.asked("*.narinfo") == len(paths),
            )
        for thread in threading.enumerate():
            if thread.name.startswith("nixfetch-lookup"):
                thread.join(30)  # half of what the silence may last
                assert not thread.is_alive()
        assert len(server.requests) == len(paths)
