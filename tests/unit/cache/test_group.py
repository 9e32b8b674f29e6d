from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, NoReturn

import pytest

from nixfetch.cache import BinaryCache, CacheGroup, Found, WrongPathError
from nixfetch.cache.download import NarGoneError
from nixfetch.cache.memo import Memo
from nixfetch.cache.memory import Memory
from nixfetch.errors import FormatError, NixfetchError, StoreError, TransportError, TrustError
from nixfetch.plan.health import UNUSABLE
from nixfetch.plan.sources import AllSourcesFailedError, MissingError
from nixfetch.plan.trust import UnsignedError
from simulated_cache import (
    OTHER_KEY,
    POLICY,
    Fault,
    Forbidden,
    Html,
    Missing,
    Refused,
    SignedBy,
    SimulatedCache,
    Slow,
    Unauthorized,
    Unsigned,
    WrongPath,
    store_path,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath
    from nixfetch.transport.base import Pace, Range

BROKEN = Refused(times=100, retryable=False)


def remotes(*priorities: int | None) -> list[SimulatedCache]:
    return [
        SimulatedCache(url=f"simulated://{number}", priority=priority)
        for number, priority in enumerate(priorities)
    ]


def group(caches: Sequence[SimulatedCache]) -> CacheGroup:
    return CacheGroup([BinaryCache(cache, sleep=lambda _: None) for cache in caches])


def urls(caches: CacheGroup) -> list[str]:
    return [cache.url.rpartition("/")[2] for cache in caches.in_order()]


def fail(caches: Sequence[SimulatedCache], path: StorePath) -> NixfetchError:
    with pytest.raises(NixfetchError) as caught:
        group(caches).find(path, POLICY)
    return caught.value


# Order.


def test_lower_priorities_come_first_and_ties_as_named() -> None:
    assert urls(group(remotes(40, 10, 40, 30))) == ["1", "3", "0", "2"]


def test_the_users_priority_wins() -> None:
    one, two = remotes(10, 20)
    caches = CacheGroup([BinaryCache(one), BinaryCache(two, priority=5)])
    assert urls(caches) == ["1", "0"]
    assert two.opened == []


def test_one_alone_is_not_asked_and_order_is_found_once() -> None:
    [alone] = remotes(10)
    assert urls(group([alone])) == ["0"]
    assert alone.opened == []
    two = remotes(10, 20)
    caches = group(two)
    assert caches.in_order() == caches.in_order()
    assert [len(cache.opened) for cache in two] == [1, 1]


@pytest.mark.parametrize("fault", [BROKEN, Refused(times=100), Html()])
def test_one_that_does_not_say_is_at_the_default(
    fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    caches = remotes(60, 10, 49)
    caches[1].faults["nix-cache-info"] = fault
    with caplog.at_level(logging.WARNING):
        assert urls(group(caches)) == ["2", "1", "0"]
    assert "simulated://1 does not say its priority" in caplog.text


# Finding.


def test_the_second_is_asked_only_for_what_the_first_lacks() -> None:
    one, two = remotes(1, 2)
    a = one.add("a")
    two.add("a")
    b = two.add("b")
    with group([one, two]) as caches:
        assert caches.find(a, POLICY).cache.url == one.url
        found = caches.find(b, POLICY)
    assert found.cache.url == two.url
    assert found.trusted.info == two.infos[b]
    assert two.opened_narinfos == [two.narinfo_name(b)]
    assert one.closed
    assert two.closed


def test_no_cache_has_it() -> None:
    caches = remotes(1, 2)
    error = fail(caches, store_path("a"))
    assert isinstance(error, MissingError)
    assert error.exit_code == 3
    assert error.facts["caches"] == [cache.url for cache in caches]


def test_no_cache_at_all() -> None:
    assert isinstance(fail([], store_path("a")), MissingError)


@pytest.mark.parametrize(
    ("fault", "family", "code"),
    [
        (Missing(), MissingError, 3),
        (BROKEN, TransportError, 5),
        (Refused(times=100), TransportError, 5),
        (Html(), FormatError, 4),
        (Unsigned(), UnsignedError, 4),
        (SignedBy(OTHER_KEY), UnsignedError, 4),
        (WrongPath(store_path("other")), WrongPathError, 4),
    ],
)
def test_one_alone_that_fails(fault: Fault, family: type[NixfetchError], code: int) -> None:
    [cache] = remotes(None)
    path = cache.add("a")
    cache.add("other")
    cache.faults[cache.narinfo_name(path)] = fault
    error = fail([cache], path)
    assert isinstance(error, family)
    assert error.exit_code == code
    if code > 3:
        assert error.facts["cache"] == cache.url


FAULTS: dict[str, tuple[Fault, int]] = {
    "missing": (Missing(), 3),
    "broken": (BROKEN, 5),
    "html": (Html(), 4),
    "unsigned": (Unsigned(), 4),
    "wrong path": (WrongPath(store_path("other")), 4),
}


@pytest.mark.parametrize("first", FAULTS)
@pytest.mark.parametrize("second", [*FAULTS, "good"])
def test_failover(first: str, second: str) -> None:
    caches = remotes(1, 2)
    path = store_path("a")
    for cache, name in zip(caches, (first, second), strict=True):
        cache.add("a")
        cache.add("other")
        if name in FAULTS:
            cache.faults[cache.narinfo_name(path)] = FAULTS[name][0]
    if second == "good":
        assert group(caches).find(path, POLICY).cache.url == caches[1].url
        return
    error = fail(caches, path)
    codes = [FAULTS[first][1], FAULTS[second][1]]
    # Trust before network before absence: what is worst is what must be looked at.
    assert error.exit_code == min(codes, key=(4, 5, 3).index)
    if codes == [3, 3]:
        assert isinstance(error, MissingError)
    else:
        assert isinstance(error, AllSourcesFailedError | TransportError | TrustError | FormatError)


def test_what_each_one_said() -> None:
    caches = remotes(1, 2, 3)
    path = store_path("a")
    faults: list[Fault] = [BROKEN, Unsigned(), Missing()]
    for cache, fault in zip(caches, faults, strict=True):
        cache.add("a")
        cache.faults[cache.narinfo_name(path)] = fault
    error = fail(caches, path)
    assert isinstance(error, AllSourcesFailedError)
    assert [url for url, _ in error.errors] == [cache.url for cache in caches]
    assert [type(said).__name__ for _, said in error.errors] == [
        "TransportError",
        "UnsignedError",
        "NotFoundError",
    ]
    assert error.facts == {"path": str(path)}
    assert error.hint == error.errors[1][1].hint
    assert error.exit_code == 4


def test_errors_of_this_machine_are_not_healed_by_another_cache() -> None:
    class Broken(SimulatedCache):
        def open(
            self, name: str, wanted: Range | None = None, *, pace: Pace | None = None
        ) -> NoReturn:
            raise StoreError("disk full")

    with pytest.raises(StoreError, match="disk full"):
        CacheGroup([BinaryCache(Broken()), BinaryCache(SimulatedCache())]).find(
            store_path("a"), POLICY
        )


def test_find_next_goes_on_where_find_stopped() -> None:
    caches = remotes(1, 2, 3)
    path = store_path("a")
    for cache in caches:
        cache.add("a")
    caches[1].faults[caches[1].narinfo_name(path)] = Missing()
    searched = group(caches)
    found = searched.find(path, POLICY)
    found = searched.find_next(found, TrustError("flipped"), POLICY)
    assert isinstance(found, Found)
    assert found.cache.url == caches[2].url
    with pytest.raises(AllSourcesFailedError) as caught:
        searched.find_next(found, TransportError("gone"), POLICY)
    assert [said.problem for _, said in caught.value.errors] == [
        "flipped",
        "no such object",
        "gone",
    ]
    assert caught.value.exit_code == 4


# Once more.


def test_the_one_cache_that_has_it_is_waited_for_after_all() -> None:
    """Two caches are never worse than one: 70 s of waiting while the other one is left is too
    much, and when that has nothing it is not.
    """
    one, two = remotes(1, 2)
    path = one.add("a")
    one.faults[one.narinfo_name(path)] = Refused(times=3, retry_after=40)
    found = group([one, two]).find(path, POLICY)
    assert found.cache.url == one.url
    assert not found.hurried
    assert len(two.opened_narinfos) == 1


def test_and_for_its_nar() -> None:
    one, two = remotes(1, 2)
    path = one.add("a")
    caches = group([one, two])
    found = caches.find(path, POLICY)
    assert found.hurried
    again = caches.find_next(found, TransportError("stalled", retryable=True), POLICY)
    assert again.cache is found.cache
    assert not again.hurried
    with pytest.raises(AllSourcesFailedError) as caught:
        caches.find_next(again, TransportError("stalled for good", retryable=True), POLICY)
    assert [said.problem for _, said in caught.value.errors] == [
        "stalled for good",
        "no such object",
    ]


def test_a_path_behind_ten_that_nobody_vouches_for() -> None:
    """A cache whose answers are no use is passed over, until nobody else is left."""
    one, two = remotes(1, 2)
    for number in range(UNUSABLE + 5):
        path = one.add(f"unsigned-{number}")
        one.faults[one.narinfo_name(path)] = Unsigned()
        two.add(f"unsigned-{number}")
    good = one.add("good")
    caches = group([one, two])
    for number in range(UNUSABLE + 5):
        assert caches.find(store_path(f"unsigned-{number}"), POLICY).cache.url == two.url
    assert len(one.opened_narinfos) == UNUSABLE
    assert caches.find(good, POLICY).cache.url == one.url


def test_a_dead_cache_has_no_second_round() -> None:
    one, two = remotes(1, 2)
    one.fault = Refused(times=10**6)
    caches = CacheGroup(
        [BinaryCache(each, priority=each.priority, sleep=lambda _: None) for each in (one, two)]
    )
    said = []
    for number in range(50):
        with pytest.raises(AllSourcesFailedError) as caught:
            caches.find(store_path(str(number)), POLICY)
        assert caught.value.exit_code == 5
        said.append(str(dict(caught.value.errors)[one.url]))
    assert "not asked any more" in said[-1]
    assert len(one.opened) == 5


def test_a_cache_that_was_closed_meanwhile_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    caches = [BinaryCache(remote) for remote in remotes(1, 2)]
    for cache in caches:
        cache.close()
    assert CacheGroup(caches).in_order() == caches
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_that_a_cache_is_not_asked_any_more_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, two = remotes(1, 2)
    one.fault = Refused(times=10**6)
    paths = [two.add(str(number)) for number in range(20)]
    caches = CacheGroup(
        [BinaryCache(each, priority=each.priority, sleep=lambda _: None) for each in (one, two)]
    )
    with caplog.at_level(logging.INFO, "nixfetch"):
        for path in paths:
            assert caches.find(path, POLICY).cache.url == two.url
    assert caplog.text.count("not asked any more") == 1


def test_five_bad_caches_in_front_of_a_good_one() -> None:
    bad = remotes(1, 2, 3, 4, 5)
    faults: list[Fault] = [Refused(times=10**6), Html(), Unauthorized(), Forbidden(), BROKEN]
    for cache, fault in zip(bad, faults, strict=True):
        cache.fault = fault
    [good] = remotes(60)
    paths = [good.add(str(number)) for number in range(100)]
    caches = group([*bad, good])
    for path in paths:
        assert caches.find(path, POLICY).cache is caches.in_order()[-1]
    assert all(len(cache.opened) <= 60 for cache in bad)


# What is remembered.


@pytest.fixture
def memo(tmp_path: Path) -> Iterator[Memo]:
    memo = Memo(tmp_path / "memo")
    yield memo
    memo.close()


def remembering(caches: Sequence[SimulatedCache], memo: Memo) -> CacheGroup:
    memory = Memory(memo)
    return CacheGroup([BinaryCache(cache, memory=memory, sleep=lambda _: None) for cache in caches])


GONE = NarGoneError("the cache has the narinfo, but not its NAR")


def test_a_nar_that_is_gone_is_gone(memo: Memo) -> None:
    """Where the narinfo was asked for in this run, there is no second try."""
    [cache] = remotes(None)
    path = cache.add("a")
    caches = remembering([cache], memo)
    with pytest.raises(NarGoneError):
        caches.find_next(caches.find(path, POLICY), GONE, POLICY)
    assert len(cache.opened_narinfos) == 1
    assert memo.get(cache.url, path.hash_part) is None


@pytest.mark.parametrize("error", [GONE, TrustError("wrong hash"), FormatError("no archive")])
def test_a_nar_that_is_another_by_now_is_asked_for_again(memo: Memo, error: NixfetchError) -> None:
    [cache] = remotes(None)
    path = cache.add("a", compression="xz")
    remembering([cache], memo).find(path, POLICY)
    cache.add("a", compression="zstd")
    caches = remembering([cache], memo)
    found = caches.find(path, POLICY)
    assert found.answer.remembered
    again = caches.find_next(found, error, POLICY)
    assert again.trusted.info.compression == "zstd"
    assert not again.answer.remembered
    with pytest.raises(NixfetchError) as caught:
        caches.find_next(again, error, POLICY)
    assert caught.value is error


def test_the_same_nar_is_not_asked_for_again(memo: Memo) -> None:
    [cache] = remotes(None)
    path = cache.add("a")
    remembering([cache], memo).find(path, POLICY)
    caches = remembering([cache], memo)
    with pytest.raises(NarGoneError):
        caches.find_next(caches.find(path, POLICY), GONE, POLICY)
    assert len(cache.opened_narinfos) == 2


def test_a_path_that_is_gone_by_now_is_missing(memo: Memo) -> None:
    [cache] = remotes(None)
    path = cache.add("a")
    remembering([cache], memo).find(path, POLICY)
    cache.objects.clear()
    caches = remembering([cache], memo)
    with pytest.raises(MissingError):
        caches.find_next(caches.find(path, POLICY), GONE, POLICY)


def test_a_cache_that_went_down_is_not_blamed_for_less(memo: Memo) -> None:
    [cache] = remotes(None)
    path = cache.add("a")
    remembering([cache], memo).find(path, POLICY)
    caches = remembering([cache], memo)
    found = caches.find(path, POLICY)
    cache.fault = BROKEN
    with pytest.raises(NarGoneError):
        caches.find_next(found, GONE, POLICY)


# Names.


def test_resolve() -> None:
    one, two = remotes(1, 2)
    a = two.add("a")
    assert group([one, two]).resolve(a.hash_part) == a
    one.faults[one.narinfo_name(a)] = BROKEN
    assert group([one, two]).resolve(a.hash_part) == a
    with pytest.raises(MissingError):
        group([one, two]).resolve(store_path("b").hash_part)
    two.faults[two.narinfo_name(a)] = Html()
    with pytest.raises(AllSourcesFailedError):
        group([one, two]).resolve(a.hash_part)


def test_who_does_not_say_its_priority_in_time_is_at_the_default(
    caplog: pytest.LogCaptureFixture,
) -> None:
    over = threading.Event()
    slow, good = remotes(1, 49)
    slow.faults["nix-cache-info"] = Slow(over)
    caches = CacheGroup([BinaryCache(slow), BinaryCache(good)], ordering=0.05)
    with caplog.at_level(logging.WARNING):
        assert urls(caches) == ["1", "0"]
    assert "simulated://0 does not say its priority in time" in caplog.text
    over.set()
    assert urls(caches) == ["1", "0"]


def test_close_closes_all_whatever_happens() -> None:
    class Failing(SimulatedCache):
        def close(self) -> None:
            raise TransportError("cannot close")

    one, three = remotes(1, 3)
    with pytest.raises(TransportError):
        group([one, Failing(), three]).close()
    assert one.closed
    assert three.closed
