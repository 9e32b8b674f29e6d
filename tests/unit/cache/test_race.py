from __future__ import annotations

import threading
import time

import pytest

from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.cache.race import Lanes, race
from nixfetch.errors import StoreError, TransportError
from nixfetch.plan.sources import MissingError
from simulated_cache import POLICY, Missing, SimulatedCache, Unsigned, store_path

PATIENCE = 30.0  # seconds; a busy machine


def cheapest(answers: dict[str, int | Exception]) -> tuple[int | None, list[str], list[str]]:
    def ask(name: str) -> int:
        answer = answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    finish = race(list(answers), ask, cost=lambda answer: answer, lanes=Lanes())
    return finish.best, finish.order, [name for name, _ in finish.errors]


def test_the_cheapest_wins() -> None:
    best, order, failed = cheapest({"a": 3, "b": 1, "c": 2})
    assert best == 1
    assert order[0] == "b"
    assert sorted(order) == ["a", "b", "c"]
    assert failed == []


def test_who_fails_is_told_apart() -> None:
    best, order, failed = cheapest({"a": TransportError("down"), "b": 2, "c": TransportError("x")})
    assert (best, order) == (2, ["b"])
    assert sorted(failed) == ["a", "c"]


def test_nobody() -> None:
    best, order, failed = cheapest({"a": TransportError("down"), "b": TransportError("down")})
    assert (best, order) == (None, [])
    assert sorted(failed) == ["a", "b"]
    assert cheapest({"a": 7}) == (7, ["a"], [])


def test_an_error_of_this_machine_is_raised() -> None:
    with pytest.raises(StoreError):
        cheapest({"a": StoreError("disk full"), "b": TransportError("down")})


def test_who_is_late_is_not_waited_for() -> None:
    over = threading.Event()

    def ask(name: str) -> str:
        if name == "late":
            over.wait(PATIENCE)
        return name

    began = time.monotonic()
    finish = race(["late", "soon"], ask, cost=len, lanes=Lanes())
    assert time.monotonic() - began < PATIENCE / 2
    over.set()
    assert (finish.best, finish.order, finish.errors) == ("soon", ["soon", "late"], [])


def test_a_silent_one_has_only_so_many_threads() -> None:
    over = threading.Event()
    lanes = Lanes(most=3)
    asked: list[str] = []

    def ask(name: str) -> str:
        asked.append(name)
        if name == "silent":
            over.wait(PATIENCE)
        return name

    for _ in range(10):
        finish = race(["silent", "soon"], ask, cost=len, lanes=lanes)
        assert (finish.best, finish.order) == ("soon", ["soon", "silent"])
    assert asked.count("silent") == 3
    assert asked.count("soon") == 10
    over.set()


def test_one_is_asked_even_when_all_lanes_are_taken() -> None:
    finish = race(["a", "b"], str.upper, cost=len, lanes=Lanes(most=0))
    assert (finish.best, finish.order, finish.errors) == ("A", ["a", "b"], [])


# The group.


def two(
    *compressions: str, priorities: tuple[int, int] = (40, 40)
) -> tuple[CacheGroup, list[SimulatedCache]]:
    remotes = []
    for number, compression in enumerate(compressions):
        remote = SimulatedCache(url=f"simulated://{number}")
        remote.add("a", {b"file": b"contents" * 100}, compression=compression)  # type: ignore[arg-type] # as `add` has them
        remotes.append(remote)
    caches = [
        BinaryCache(remote, priority=priority, sleep=lambda _: None)
        for remote, priority in zip(remotes, priorities, strict=True)
    ]
    return CacheGroup(caches, race=True), remotes


PATH = store_path("a")


def test_the_cache_that_is_cheapest_to_decode_is_taken() -> None:
    group, remotes = two("xz", "zstd")
    with group:
        found = group.find(PATH, POLICY)
        assert found.cache.url == "simulated://1"
        assert all(remote.opened_narinfos for remote in remotes)
        again = group.find_next(found, TransportError("broken"), POLICY)
        assert again.cache.url == "simulated://0"


def test_a_lower_priority_is_asked_only_when_it_is_needed() -> None:
    group, (_, second) = two("xz", "zstd", priorities=(10, 20))
    with group:
        assert group.find(PATH, POLICY).cache.url == "simulated://0"
        assert second.opened == []


@pytest.mark.parametrize("fault", [Missing(), Unsigned()])
def test_one_of_them_is_enough(fault: Missing | Unsigned) -> None:
    group, (first, _) = two("none", "xz")
    first.faults[first.narinfo_name(PATH)] = fault
    with group:
        found = group.find(PATH, POLICY)
        assert found.cache.url == "simulated://1"
        assert not found.hurried


def test_none_of_them_has_it() -> None:
    group, _ = two("none", "xz")
    with group, pytest.raises(MissingError) as caught:
        group.find(store_path("gone"), POLICY)
    assert len(caught.value.errors) == 2
