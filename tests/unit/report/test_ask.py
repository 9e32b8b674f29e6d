from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from nixfetch.cache import BinaryCache, CacheGroup, WrongPathError
from nixfetch.errors import TransportError
from nixfetch.formats.contentaddress import Method
from nixfetch.formats.narinfo import NarInfoError
from nixfetch.formats.storepath import StorePath
from nixfetch.plan.retry import RetrySchedule
from nixfetch.plan.sources import AllSourcesFailedError, MissingError
from nixfetch.plan.trust import FalseContentAddressError, UnsignedError
from nixfetch.report import Download, NotValidError, ask_caches, ask_store
from nixfetch.store import LocalStore
from simulated_cache import (
    POLICY,
    Html,
    Missing,
    Refused,
    SimulatedCache,
    Unsigned,
    WrongPath,
    store_path,
)

if TYPE_CHECKING:
    from pathlib import Path


def group(*caches: SimulatedCache, trusted: bool = False) -> CacheGroup:
    once = RetrySchedule(tries=1)
    return CacheGroup(
        BinaryCache(cache, priority=rank, trusted=trusted, retry=once)
        for rank, cache in enumerate(caches)
    )


def two_caches() -> tuple[SimulatedCache, SimulatedCache, StorePath]:
    """Two with the same path, whose narinfos name different compressions."""
    one, two = SimulatedCache(), SimulatedCache(url="simulated://two")
    path = one.add("hello", b"hi", compression="xz")
    assert two.add("hello", b"hi", compression="zstd") == path
    return one, two, path


def test_a_trusted_answer_has_no_doubt() -> None:
    cache = SimulatedCache()
    deriver = store_path("hello.drv")
    path = cache.add("hello", b"hi", references=[store_path("hello")], deriver=deriver)
    claim = cache.infos[path]
    info = ask_caches(path, caches=group(cache), policy=POLICY)
    assert info.doubt is None
    assert (info.path, info.nar_hash, info.nar_size) == (path, claim.nar_hash, claim.nar_size)
    assert (info.references, info.deriver, info.ca) == ((path,), deriver, None)
    assert info.download == Download(claim.url, "none", claim.file_hash, claim.file_size)
    assert (info.registered, info.ultimate) == (None, False)
    assert cache.opened == [f"{path.hash_part}.narinfo"]


def test_an_unsigned_path_is_shown_with_the_reason() -> None:
    cache = SimulatedCache(key=None)
    path = cache.add("hello")
    info = ask_caches(path, caches=group(cache), policy=POLICY)
    assert isinstance(info.doubt, UnsignedError)
    assert info.doubt.facts["cache"] == cache.url


def test_a_content_address_needs_no_signature() -> None:
    cache = SimulatedCache()
    path = cache.add("words", b"words", ca=Method.FLAT)
    info = ask_caches(path, caches=group(cache), policy=POLICY)
    assert info.doubt is None
    assert info.ca is not None


def test_a_false_content_address_is_doubted_in_a_trusted_cache_too() -> None:
    cache = SimulatedCache()
    words = cache.add("words", b"words", ca=Method.FLAT)
    raw = cache.objects[cache.narinfo_name(words)]
    other = store_path("other")
    cache.objects[cache.narinfo_name(other)] = raw.replace(words.base.encode(), other.base.encode())
    info = ask_caches(other, caches=group(cache, trusted=True), policy=POLICY)
    assert isinstance(info.doubt, FalseContentAddressError)


def test_a_trusted_cache_is_believed() -> None:
    cache = SimulatedCache(key=None)
    path = cache.add("hello")
    assert ask_caches(path, caches=group(cache, trusted=True), policy=POLICY).doubt is None


@pytest.mark.parametrize("fault", [Unsigned(), Missing(), Html(), Refused()])
def test_the_answer_is_the_one_that_a_fetch_would_take(
    fault: Unsigned | Missing | Html | Refused,
) -> None:
    one, two, path = two_caches()
    one.faults[one.narinfo_name(path)] = fault
    info = ask_caches(path, caches=group(one, two), policy=POLICY)
    assert info.doubt is None
    assert info.download is not None
    assert info.download.compression == "zstd"


def test_a_second_cache_is_not_asked_in_vain() -> None:
    one, two, path = two_caches()
    ask_caches(path, caches=group(one, two), policy=POLICY)
    assert two.opened == []


@pytest.mark.parametrize("fault", [Unsigned(), Missing(), Html(), Refused()])
def test_where_all_are_doubted_the_first_speaks(
    fault: Unsigned | Missing | Html | Refused,
) -> None:
    one, two, path = two_caches()
    one.faults[one.narinfo_name(path)] = Unsigned()
    two.faults[two.narinfo_name(path)] = fault
    info = ask_caches(path, caches=group(one, two), policy=POLICY)
    assert isinstance(info.doubt, UnsignedError)
    assert info.doubt.facts["cache"] == one.url
    assert info.download is not None
    assert info.download.compression == "xz"


def test_a_path_in_no_cache_is_missing() -> None:
    with pytest.raises(MissingError):
        ask_caches(store_path("gone"), caches=group(SimulatedCache()), policy=POLICY)


def test_the_one_answer_of_the_one_cache_is_the_error() -> None:
    cache = SimulatedCache()
    path, other = cache.add("hello"), cache.add("other")
    ask = partial(ask_caches, path, caches=group(cache), policy=POLICY)
    name = cache.narinfo_name(path)
    cache.faults[name] = Html()
    with pytest.raises(NarInfoError):
        ask()
    cache.faults[name] = Refused(times=9, retryable=False)
    with pytest.raises(TransportError):
        ask()
    cache.faults[name] = WrongPath(other)
    with pytest.raises(WrongPathError):
        ask()


def test_the_right_hash_part_under_another_name_is_another_path() -> None:
    cache = SimulatedCache()
    path = cache.add("hello")
    wrong = StorePath.parse(f"{path.hash_part}-goodbye")
    with pytest.raises(WrongPathError) as caught:
        ask_caches(wrong, caches=group(cache), policy=POLICY)
    assert caught.value.facts["got"] == path


def test_several_bad_answers_are_all_told() -> None:
    one, two, path = two_caches()
    one.faults[one.narinfo_name(path)] = Html()
    two.faults[two.narinfo_name(path)] = Missing()
    with pytest.raises(AllSourcesFailedError) as caught:
        ask_caches(path, caches=group(one, two), policy=POLICY)
    assert [url for url, _ in caught.value.errors] == [one.url, two.url]
    assert caught.value.exit_code == 4


def test_signatures_come_in_order_and_once() -> None:
    cache = SimulatedCache()
    path = cache.add("hello")
    lines = b"Sig: b:AA==\nSig: a-1:AA==\nSig: a:/w==\nSig: a:AA==\nSig: a:/w==\n"
    cache.objects[cache.narinfo_name(path)] += lines
    info = ask_caches(path, caches=group(cache), policy=POLICY)
    shown = [str(signature) for signature in info.signatures if signature.key_name < "s"]
    assert shown == ["a:AA==", "a:/w==", "a-1:AA==", "b:AA=="]


def test_the_store_says_what_it_holds(tmp_path: Path) -> None:
    cache = SimulatedCache()
    path = cache.add("hello", b"hi", references=[store_path("hello")])
    with LocalStore(tmp_path) as store:
        with store.adding(cache.trusted(path)) as sink:
            sink.write(cache.objects[cache.nar_name(path)])
        store.settle()
        info = ask_store(path, store=store)
        with pytest.raises(NotValidError) as caught:
            ask_store(store_path("gone"), store=store)
    claim = cache.infos[path]
    assert (info.path, info.nar_hash, info.references) == (path, claim.nar_hash, (path,))
    assert info.signatures == claim.signatures
    assert (info.download, info.doubt) == (None, None)
    assert info.registered
    assert caught.value.exit_code == 3
    assert caught.value.facts["store"] == str(tmp_path)
