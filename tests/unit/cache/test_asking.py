"""What one cache says of a path: remembered, refused, for another store, or nothing."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.cache.about import StoreDirError
from nixfetch.cache.download import NarForbiddenError
from nixfetch.cache.gate import OutOfPatienceError
from nixfetch.cache.memo import Memo
from nixfetch.cache.memory import Memory
from nixfetch.cache.reading import NarUrlError, NotNarInfoError
from nixfetch.cache.small import OfflineError
from nixfetch.errors import NixfetchError, TransportError
from nixfetch.formats.cacheinfo import CacheInfo
from nixfetch.plan.trust import TrustPolicy, UnsignedError
from nixfetch.transport.base import AuthenticationError, NotFoundError
from nixfetch.transport.urls import redacted
from simulated_cache import (
    OTHER_KEY,
    POLICY,
    Fault,
    Forbidden,
    Html,
    Missing,
    Refused,
    Replaced,
    SimulatedCache,
    Unauthorized,
    Unsigned,
    WrongPath,
    store_path,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath

STRANGER = TrustPolicy(keys=(OTHER_KEY.public(),))
INFO = "nix-cache-info"


@pytest.fixture
def remote() -> SimulatedCache:
    return SimulatedCache(priority=40)


@pytest.fixture
def memo(tmp_path: Path) -> Iterator[Memo]:
    memo = Memo(tmp_path / "memo")
    yield memo
    memo.close()


def client(remote: SimulatedCache, memo: Memo | None = None, **options: bool) -> BinaryCache:
    memory = Memory(memo, refresh=options.pop("refresh", False))
    return BinaryCache(
        remote, memory=memory, sleep=lambda _: None, offline=options.get("offline", False)
    )


def missing(client: BinaryCache, path: StorePath) -> NixfetchError:
    with pytest.raises(NixfetchError) as caught:
        client.lookup(path, POLICY)
    return caught.value


# Remembered.


def test_what_was_said_is_not_asked_for_again(remote: SimulatedCache, memo: Memo) -> None:
    path = remote.add("a")
    first = client(remote, memo).lookup(path, POLICY)
    assert client(remote, memo).recall(path, POLICY) == first
    assert client(remote, memo).lookup(path, POLICY) == first
    assert client(remote, memo).narinfo(path.hash_part) == remote.infos[path]
    assert len(remote.opened) == 1


def test_nor_what_was_missing(remote: SimulatedCache, memo: Memo) -> None:
    path = store_path("a")
    assert "remembered" not in missing(client(remote, memo), path).facts
    error = missing(client(remote, memo), path)
    assert isinstance(error, NotFoundError)
    assert error.facts == {"cache": remote.url, "remembered": True}
    assert len(remote.opened_narinfos) == 1


def test_refresh_believes_nothing_and_remembers(remote: SimulatedCache, memo: Memo) -> None:
    path = store_path("a")
    missing(client(remote, memo), path)
    remote.add("a")
    assert client(remote, memo, refresh=True).lookup(path, POLICY).info.path == path
    assert client(remote, memo).lookup(path, POLICY).info.path == path
    assert len(remote.opened_narinfos) == 2


def test_trust_is_judged_anew(remote: SimulatedCache, memo: Memo) -> None:
    path = remote.add("a")
    client(remote, memo).lookup(path, POLICY)
    assert client(remote, memo).recall(path, STRANGER) is None
    with pytest.raises(UnsignedError):
        client(remote, memo).lookup(path, STRANGER)
    assert client(remote, memo).recall(path, POLICY) is None  # forgotten


def test_what_is_signed_since_is_seen(remote: SimulatedCache, memo: Memo) -> None:
    path = remote.add("a")
    remote.publish(remote.infos[path], key=OTHER_KEY)
    assert client(remote, memo).narinfo(path.hash_part).path == path
    remote.add("a")
    assert client(remote, memo).lookup(path, POLICY).info.path == path


def test_what_is_remembered_and_makes_no_sense_is_asked_for(
    remote: SimulatedCache, memo: Memo
) -> None:
    path = remote.add("a")
    memo.put(remote.url, path.hash_part, b"nonsense")
    assert client(remote, memo).narinfo(path.hash_part) == remote.infos[path]
    memo.put(remote.url, path.hash_part, b"nonsense")
    assert client(remote, memo).lookup(path, POLICY).info.path == path
    assert client(remote, memo).recall(path, POLICY)


@pytest.mark.parametrize(
    "fault",
    [
        Html(),
        Replaced(b""),
        Refused(times=100, retryable=False),
        Unauthorized(),
        Forbidden(),
        Unsigned(),
        WrongPath(store_path("other")),
    ],
)
def test_what_is_no_answer_is_not_remembered(
    remote: SimulatedCache, memo: Memo, fault: Fault
) -> None:
    path = remote.add("a")
    remote.add("other")
    remote.faults[remote.narinfo_name(path)] = fault
    missing(client(remote, memo), path)
    assert memo.get(remote.url, path.hash_part) is None


def test_a_failure_does_not_cost_what_is_remembered(remote: SimulatedCache, memo: Memo) -> None:
    path = remote.add("a")
    client(remote, memo).lookup(path, POLICY)
    remote.fault = Refused(times=100, retryable=False)
    missing(client(remote, memo, refresh=True), path)
    assert client(remote, memo).recall(path, POLICY)


def test_the_age_of_a_cache_info_is_that_of_the_answer(tmp_path: Path) -> None:
    now = [1000.0]
    remote = SimulatedCache(priority=40)
    memo = Memo(tmp_path / "memo", info_ttl=10, now=lambda: now[0])
    for _ in range(3):
        assert client(remote, memo).priority == 40
        now[0] += 6
    memo.close()
    assert len(remote.opened) == 2


def test_a_cache_info_that_makes_no_sense_any_more(remote: SimulatedCache, memo: Memo) -> None:
    memo.put_info(remote.url, b"<html>")
    assert client(remote, memo).priority == 40


# Pages for people.


def test_a_page_for_people_says_so(remote: SimulatedCache) -> None:
    remote.fault = Html()
    error = missing(client(remote), store_path("a"))
    assert isinstance(error, NotNarInfoError)
    assert error.hint is not None
    assert remote.opened == [f"{store_path('a').hash_part}.narinfo"]


# Refused.


def test_403_is_a_missing_path_with_one_hint(
    remote: SimulatedCache, caplog: pytest.LogCaptureFixture
) -> None:
    """An object store whose keys must not be listed."""
    path = remote.add("a")
    for name in ("x", "y", "z"):
        remote.faults[f"{store_path(name).hash_part}.narinfo"] = Forbidden()
    cache = client(remote)
    with caplog.at_level(logging.WARNING):
        for name in ("x", "y", "z"):
            error = missing(cache, store_path(name))
            assert type(error) is NotFoundError
            assert error.facts["status"] == 403
    assert caplog.text.count("403") == 1
    assert cache.lookup(path, POLICY).info.path == path
    assert remote.opened.count(INFO) == 1


def test_403_on_everything_is_about_credentials(remote: SimulatedCache) -> None:
    remote.fault = Forbidden()
    cache = client(remote)
    for name in ("x", "y"):
        error = missing(cache, store_path(name))
        assert isinstance(error, AuthenticationError)
        assert error.exit_code == 5
        assert "credentials" in (error.hint or "")
    assert remote.opened.count(INFO) == 1


def test_even_where_there_was_access_once(remote: SimulatedCache, memo: Memo) -> None:
    assert client(remote, memo).priority == 40
    remote.fault = Forbidden()
    cache = client(remote, memo)
    assert cache.priority == 40
    assert isinstance(missing(cache, store_path("x")), AuthenticationError)


@pytest.mark.parametrize("fault", [None, Missing()])
def test_but_not_where_anything_is_to_be_had(remote: SimulatedCache, fault: Missing | None) -> None:
    remote.faults[INFO] = Forbidden()
    remote.fault = fault
    cache = client(remote)
    missing(cache, store_path("x"))  # 404
    remote.fault = Forbidden()
    assert type(missing(cache, store_path("y"))) is NotFoundError


def test_401_is_final(remote: SimulatedCache) -> None:
    remote.fault = Unauthorized()
    cache = client(remote)
    assert isinstance(missing(cache, store_path("x")), AuthenticationError)
    out = missing(cache, store_path("y"))
    assert isinstance(out, OutOfPatienceError)
    assert out.exit_code == 5
    assert len(remote.opened) == 1


# For another store.


def test_one_alone_for_another_store_says_so() -> None:
    remote = SimulatedCache()
    remote.objects[INFO] = CacheInfo(store_dir="/gnu/store").render()
    cache = client(remote)
    error = missing(cache, store_path("x"))
    assert isinstance(error, StoreDirError)
    assert error.facts == {"cache": remote.url, "store_dir": "/gnu/store"}
    out = missing(cache, store_path("y"))
    assert "another store directory" in str(out)
    assert len(remote.opened) == 2


def test_also_where_its_narinfos_are_odd() -> None:
    remote = SimulatedCache()
    path = remote.add("a")
    name = remote.narinfo_name(path)
    remote.objects[name] = remote.objects[name].replace(b"/nix/store", b"/gnu/store")
    remote.objects[INFO] = CacheInfo(store_dir="/gnu/store").render()
    assert isinstance(missing(client(remote), path), StoreDirError)


def test_that_is_looked_at_once_and_never_in_the_way(remote: SimulatedCache) -> None:
    remote.faults[INFO] = Refused(times=100, retryable=False)
    cache = client(remote)
    for name in ("x", "y"):
        assert type(missing(cache, store_path(name))) is NotFoundError
    assert remote.opened.count(INFO) == 1


def test_a_cache_that_has_the_path_is_not_asked_more(remote: SimulatedCache) -> None:
    path = remote.add("a")
    client(remote).lookup(path, POLICY)
    assert remote.opened == [remote.narinfo_name(path)]


# Offline.


def test_offline_only_what_is_remembered_counts(remote: SimulatedCache, memo: Memo) -> None:
    path = remote.add("a")
    client(remote, memo).lookup(path, POLICY)
    asked = len(remote.opened)
    cache = client(remote, memo, offline=True)
    trusted = cache.lookup(path, POLICY)
    for error in (missing(cache, store_path("b")), _of_nar(cache, path, memo, remote)):
        assert isinstance(error, OfflineError)
        assert "--offline" in (error.hint or "")
    assert trusted.info.path == path
    assert len(remote.opened) == asked


def _of_nar(cache: BinaryCache, path: StorePath, memo: Memo, remote: SimulatedCache) -> object:
    trusted = client(remote, memo).recall(path, POLICY)
    assert trusted is not None
    with pytest.raises(OfflineError) as caught, cache.nar(trusted) as download:
        next(download)
    return caught.value


# In a hurry.


class Dripping(SimulatedCache):
    """Sends a byte now and then."""

    now = 0.0

    def _chunks(self, data: bytes) -> Iterator[bytes]:
        for byte in data:
            self.now += 1
            yield bytes([byte])


def test_a_dripping_narinfo_is_not_waited_for_while_another_cache_is_left() -> None:
    remote = Dripping()
    path = remote.add("a")

    def sleep(seconds: float) -> None:
        remote.now += seconds

    cache = BinaryCache(remote, now=lambda: remote.now, sleep=sleep)
    with pytest.raises(TransportError):
        cache.lookup(path, POLICY, hurried=True)
    assert remote.now < 40
    assert cache.lookup(path, POLICY).info.path == path


# NARs that are refused.


def nar_error(cache: BinaryCache, path: StorePath) -> NixfetchError:
    with (
        pytest.raises(NixfetchError) as caught,
        cache.nar(cache.lookup(path, POLICY)) as download,
    ):
        b"".join(download)
    return caught.value


def test_403_on_nars_alone_says_so(
    remote: SimulatedCache, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [remote.add(name) for name in ("a", "b")]
    for path in paths:
        remote.faults[remote.nar_name(path)] = Forbidden()
    cache = client(remote)
    with caplog.at_level(logging.WARNING):
        for path in paths:
            error = nar_error(cache, path)
            assert type(error) is NarForbiddenError
            assert (error.exit_code, error.facts["status"]) == (3, 403)
            assert "credentials" in (error.hint or "")
    assert caplog.text.count("403") == 1


def test_where_all_but_the_memory_says_403_the_door_is_closed(
    remote: SimulatedCache, memo: Memo
) -> None:
    """The narinfo is remembered; the token that let us in is over."""
    path = remote.add("a")
    client(remote, memo).lookup(path, POLICY)
    remote.fault = Forbidden()
    cache = client(remote, memo)
    error = nar_error(cache, path)
    assert isinstance(error, AuthenticationError)
    assert (error.exit_code, error.facts["status"]) == (5, 403)
    assert "credentials" in (error.hint or "")


def test_but_not_where_a_nar_was_to_be_had(remote: SimulatedCache, memo: Memo) -> None:
    paths = [remote.add(name) for name in ("a", "b")]
    for path in paths:
        client(remote, memo).lookup(path, POLICY)
    cache = client(remote, memo)
    remote.faults |= {INFO: Forbidden(), remote.nar_name(paths[1]): Forbidden()}
    with cache.nar(cache.lookup(paths[0], POLICY)) as download:
        b"".join(download)
    assert type(nar_error(cache, paths[1])) is NarForbiddenError


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_403_does_not_make_us_forget_the_narinfo(
    remote: SimulatedCache, memo: Memo, *, everywhere: bool
) -> None:
    path = remote.add("a")
    client(remote, memo).lookup(path, POLICY)
    if everywhere:
        remote.fault = Forbidden()
    else:
        remote.faults[remote.nar_name(path)] = Forbidden()
    with CacheGroup([client(remote, memo)]) as group:
        found = group.find(path, POLICY)
        error = nar_error(found.cache, path)
        with pytest.raises(NixfetchError) as caught:
            group.find_next(found, error, POLICY)
    assert caught.value.exit_code == (5 if everywhere else 3)
    assert memo.get(remote.url, path.hash_part) is not None


def test_a_closed_door_is_warned_of_once_where_another_is_left(
    remote: SimulatedCache, caplog: pytest.LogCaptureFixture
) -> None:
    remote.fault = Forbidden()
    good = SimulatedCache(url="simulated://good", priority=50)
    paths = [good.add(name) for name in ("a", "b")]
    with (
        caplog.at_level(logging.WARNING),
        CacheGroup([client(remote), client(good)]) as group,
    ):
        for path in paths:
            assert group.find(path, POLICY).cache.url == good.url
    [record] = caplog.records
    assert record.getMessage().startswith(f"{remote.url}: cache refuses everything (status=403): ")
    assert "credentials" in record.getMessage()


# Where a narinfo may say that its NAR is.


@pytest.mark.parametrize(
    "url",
    [
        "../../etc/passwd",
        "nar/%2e%2e/x",
        "/etc/passwd",
        "file:///etc/passwd",
        "data:text/plain,x",
        "ftp://cache.example/x",
    ],
)
def test_a_nar_outside_of_the_cache_is_not_believed(
    remote: SimulatedCache, memo: Memo, url: str
) -> None:
    path = remote.add("a")
    remote.publish(replace(remote.infos[path], url=url), key=remote.key)
    error = missing(client(remote, memo), path)
    assert isinstance(error, NarUrlError)
    assert error.exit_code == 4
    assert error.facts["url"] == redacted(url)
    assert memo.get(remote.url, path.hash_part) is None


def test_a_nar_on_another_server_may_be(remote: SimulatedCache) -> None:
    path = remote.add("a")
    url = "https://cdn.example/nar/x.nar?token=1"
    remote.publish(replace(remote.infos[path], url=url), key=remote.key)
    assert client(remote).lookup(path, POLICY).info.url == url
