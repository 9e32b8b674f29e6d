from __future__ import annotations

import gzip
import logging
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from nixfetch.cache import BinaryCache, WrongPathError
from nixfetch.cache.about import StoreDirError
from nixfetch.cache.download import NarGoneError
from nixfetch.errors import NixfetchError, TransportError, TrustError, facts
from nixfetch.formats import cacheinfo, narinfo
from nixfetch.formats.cacheinfo import CacheInfo, CacheInfoError
from nixfetch.formats.contentaddress import ContentAddress, Method
from nixfetch.formats.narinfo import NarInfoError
from nixfetch.formats.signing import Signature
from nixfetch.plan.retry import RetrySchedule
from nixfetch.plan.trust import FalseContentAddressError, TrustPolicy, UnsignedError
from nixfetch.streams.codecs import CodecError, TruncatedError, UnsupportedCompressionError
from nixfetch.streams.limits import TooLargeError
from nixfetch.transport.base import Body, Pace, Range
from simulated_cache import (
    KEY,
    OTHER_KEY,
    POLICY,
    Compression,
    CutAfter,
    Endless,
    FlippedByte,
    Html,
    Missing,
    Refused,
    Replaced,
    SignedBy,
    SimulatedCache,
    Truncated,
    Unsigned,
    WrongPath,
    store_path,
    tree_nar,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nixfetch.formats.storepath import StorePath

TREE = {b"%03d" % number: b"contents " * number for number in range(100)}
NAR = tree_nar(TREE)


class Clock:
    """Sleeps in no time, and remembers for how long it should have."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def client(self, remote: SimulatedCache, **options: object) -> BinaryCache:
        return BinaryCache(
            remote,
            now=lambda: sum(self.slept),
            sleep=self.slept.append,
            fraction=lambda: 0.5,
            **options,  # type: ignore[arg-type] # as BinaryCache has them
        )


class FlakyEncoding:
    """A remote that cuts its first answer, encodes what it sends, and is bad at ranges."""

    url = "simulated://flaky"

    def __init__(self, data: bytes, *, cut: int, plain_first: bytes | None = None) -> None:
        self._data, self._cut, self._plain_first = data, cut, plain_first
        self.asked: list[Range | None] = []

    @contextmanager
    def open(
        self, name: str, wanted: Range | None = None, *, pace: Pace | None = None
    ) -> Iterator[Body]:
        self.asked.append(wanted)
        if len(self.asked) > 1:
            start = 0 if wanted is None else wanted.start
            yield Body(chunks=iter([self._data[start:]]), encoding="gzip", start=start)
        elif self._plain_first is None:
            yield Body(chunks=self._first(self._data), encoding="gzip")
        else:
            yield Body(chunks=self._first(self._plain_first))

    def _first(self, data: bytes) -> Iterator[bytes]:
        yield data[: self._cut]
        raise TransportError("body ended early", retryable=True)

    def close(self) -> None:
        pass


@pytest.fixture
def remote() -> SimulatedCache:
    return SimulatedCache(chunk_size=1000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(remote: SimulatedCache, clock: Clock) -> BinaryCache:
    return clock.client(remote)


def nar(
    client: BinaryCache,
    remote: SimulatedCache,
    path: StorePath,
    downloaded: Callable[[int], None] = lambda _: None,
) -> bytes:
    with client.nar(remote.trusted(path), downloaded=downloaded) as chunks:
        return b"".join(chunks)


def error_of(client: BinaryCache, remote: SimulatedCache, path: StorePath) -> NixfetchError:
    with pytest.raises(NixfetchError) as caught:
        nar(client, remote, path)
    assert remote.open_bodies == 0
    assert caught.value.facts["cache"] == remote.url
    assert caught.value.facts["url"] == remote.nar_name(path)
    return caught.value


# Small objects.


def test_info_is_asked_once(remote: SimulatedCache, client: BinaryCache) -> None:
    remote.objects["nix-cache-info"] = CacheInfo(priority=41).render()
    assert client.info().priority == client.priority == 41
    assert remote.opened == ["nix-cache-info"]
    assert client.url == remote.url


def test_info_that_is_not_there_is_the_defaults(
    remote: SimulatedCache, client: BinaryCache, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert client.info() == CacheInfo()
    assert "has no nix-cache-info" in caplog.text
    assert client.priority == cacheinfo.DEFAULT_PRIORITY


def test_a_given_priority_needs_no_question(remote: SimulatedCache, clock: Clock) -> None:
    assert clock.client(remote, priority=7).priority == 7
    assert remote.opened == []


def test_a_cache_for_another_store(remote: SimulatedCache, client: BinaryCache) -> None:
    remote.objects["nix-cache-info"] = CacheInfo(store_dir="/gnu/store").render()
    with pytest.raises(StoreDirError) as caught:
        client.info()
    assert caught.value.facts == {"cache": remote.url, "store_dir": "/gnu/store"}


def test_html_in_place_of_the_info(remote: SimulatedCache, client: BinaryCache) -> None:
    remote.faults["nix-cache-info"] = Html()
    with pytest.raises(CacheInfoError, match="HTML"):
        client.info()


def test_narinfo(remote: SimulatedCache, client: BinaryCache) -> None:
    path = remote.add("a", TREE)
    assert client.narinfo(path.hash_part) == remote.infos[path]
    assert remote.opened == [f"{path.hash_part}.narinfo"]
    assert remote.open_bodies == 0


def test_lookup_is_believed_and_short_of_memory(
    remote: SimulatedCache, client: BinaryCache
) -> None:
    path = remote.add("a", TREE)
    trusted = client.lookup(path, POLICY)
    assert trusted.info == remote.infos[path]
    assert trusted.info.raw == b""
    assert trusted.signed_by == (KEY.name,)


@pytest.mark.parametrize(
    ("fault", "problem"),
    [(Unsigned(), "path is not signed"), (SignedBy(OTHER_KEY), "path is signed by no trusted key")],
)
def test_lookup_that_nobody_vouches_for(
    remote: SimulatedCache, client: BinaryCache, fault: Unsigned | SignedBy, problem: str
) -> None:
    path = remote.add("a", TREE)
    remote.faults[remote.narinfo_name(path)] = fault
    with pytest.raises(UnsignedError, match=problem) as caught:
        client.lookup(path, POLICY)
    assert caught.value.facts["cache"] == remote.url
    assert caught.value.facts["path"] == path


def test_a_forged_field_spoils_the_signature(remote: SimulatedCache, client: BinaryCache) -> None:
    path = remote.add("a", TREE)
    info = remote.infos[path]
    remote.publish(replace(info, references=(store_path("evil"),)), key=None)
    with pytest.raises(UnsignedError, match="signature is wrong"):
        client.lookup(path, POLICY)


def test_a_cache_whose_word_is_taken(remote: SimulatedCache, clock: Clock) -> None:
    path = remote.add("a", TREE)
    remote.faults[remote.narinfo_name(path)] = Unsigned()
    assert clock.client(remote, trusted=True).lookup(path, POLICY).signed_by == ()


def test_a_false_content_address_of_a_cache_whose_word_is_taken(
    remote: SimulatedCache, clock: Clock
) -> None:
    path = remote.add("a", TREE)
    false = ContentAddress(Method.RECURSIVE, remote.infos[path].nar_hash)
    remote.publish(replace(remote.infos[path], ca=false), key=KEY)
    with pytest.raises(FalseContentAddressError):
        clock.client(remote, trusted=True).lookup(path, TrustPolicy(check=False))


def test_another_path(remote: SimulatedCache, client: BinaryCache) -> None:
    path, other = remote.add("a"), remote.add("b")
    remote.faults[remote.narinfo_name(path)] = WrongPath(other)
    with pytest.raises(WrongPathError) as caught:
        client.lookup(path, POLICY)
    assert caught.value.facts == {"cache": remote.url, "asked": path.hash_part, "got": other}


def test_the_same_hash_part_under_another_name(remote: SimulatedCache, client: BinaryCache) -> None:
    path = remote.add("a")
    other = replace(path, base=f"{path.hash_part}-other")
    with pytest.raises(WrongPathError) as caught:
        client.lookup(other, POLICY)
    assert caught.value.facts == {"cache": remote.url, "asked": other, "got": path}
    assert isinstance(caught.value, TrustError)


@pytest.mark.parametrize("fault", [Html(), Replaced(b""), Replaced(b"garbage"), FlippedByte(3)])
def test_a_malformed_narinfo(
    remote: SimulatedCache, client: BinaryCache, fault: Html | Replaced
) -> None:
    path = remote.add("a")
    remote.faults[remote.narinfo_name(path)] = fault
    with pytest.raises(NarInfoError) as caught:
        client.narinfo(path.hash_part)
    assert caught.value.facts["cache"] == remote.url
    assert len(remote.opened_narinfos) == 1


def test_an_endless_narinfo(remote: SimulatedCache, client: BinaryCache) -> None:
    path = remote.add("a")
    remote.faults[remote.narinfo_name(path)] = Endless(data=remote.infos[path].render())
    with pytest.raises(TooLargeError) as caught:
        client.narinfo(path.hash_part)
    assert caught.value.facts["limit"] == narinfo.MAX_SIZE
    assert remote.open_bodies == 0


def test_a_narinfo_under_an_encoding(remote: SimulatedCache, client: BinaryCache) -> None:
    path = remote.add("a")
    name = remote.narinfo_name(path)
    remote.faults[name] = Replaced(gzip.compress(remote.objects[name]), "gzip")
    assert client.lookup(path, POLICY).info == remote.infos[path]


def test_a_bomb_in_place_of_a_narinfo(remote: SimulatedCache, client: BinaryCache) -> None:
    path = remote.add("a")
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < narinfo.MAX_SIZE
    remote.faults[remote.narinfo_name(path)] = Replaced(bomb, "gzip")
    with pytest.raises(TooLargeError):
        client.narinfo(path.hash_part)


# Trying again.


def test_what_passes_is_tried_again(
    remote: SimulatedCache, client: BinaryCache, clock: Clock
) -> None:
    path = remote.add("a")
    remote.faults[remote.narinfo_name(path)] = Refused(times=4)
    assert client.narinfo(path.hash_part).path == path
    assert clock.slept == [0.125, 0.25, 0.5, 1.0]


def test_it_gives_up_and_says_after_how_many(
    remote: SimulatedCache, client: BinaryCache, clock: Clock
) -> None:
    path = remote.add("a")
    remote.faults[remote.narinfo_name(path)] = Refused(times=100)
    with pytest.raises(TransportError) as caught:
        client.narinfo(path.hash_part)
    assert caught.value.facts["tries"] == len(remote.opened) == 5
    assert len(clock.slept) == 4


@pytest.mark.parametrize("fault", [Refused(times=9, retryable=False), Missing()])
def test_what_does_not_pass_is_not_tried_again(
    remote: SimulatedCache, client: BinaryCache, clock: Clock, fault: Refused | Missing
) -> None:
    path = remote.add("a")
    remote.faults[remote.narinfo_name(path)] = fault
    with pytest.raises(TransportError):
        client.narinfo(path.hash_part)
    assert len(remote.opened_narinfos) == 1
    assert clock.slept == []


def test_as_long_as_the_server_asks(
    remote: SimulatedCache, client: BinaryCache, clock: Clock
) -> None:
    path = remote.add("a")
    remote.faults[remote.narinfo_name(path)] = Refused(times=2, retry_after=7.5)
    client.narinfo(path.hash_part)
    assert clock.slept == [7.5, 7.5]


def test_not_longer_than_is_reasonable(
    remote: SimulatedCache, client: BinaryCache, clock: Clock
) -> None:
    path = remote.add("a")
    remote.faults[remote.narinfo_name(path)] = Refused(times=1, retry_after=61)
    with pytest.raises(TransportError) as caught:
        client.narinfo(path.hash_part)
    assert clock.slept == []
    assert caught.value.facts["retry_after"] == "61 s"
    assert "not waited for" in (caught.value.hint or "")


def test_a_schedule_of_ones_own(remote: SimulatedCache, clock: Clock) -> None:
    path = remote.add("a")
    remote.faults[remote.narinfo_name(path)] = Refused(times=1)
    client = clock.client(remote, retry=RetrySchedule(tries=1))
    with pytest.raises(TransportError):
        client.narinfo(path.hash_part)


def test_a_small_object_that_is_cut_starts_anew(
    remote: SimulatedCache, client: BinaryCache
) -> None:
    path = remote.add("a")
    remote.faults[remote.narinfo_name(path)] = CutAfter(20)
    assert client.narinfo(path.hash_part).path == path
    assert [request.wanted for request in remote.requests] == [None, None]


# NARs.


@pytest.mark.parametrize("compression", ["none", "xz", "zstd", "gzip"])
def test_nar(remote: SimulatedCache, client: BinaryCache, compression: Compression) -> None:
    path = remote.add("a", TREE, compression=compression)
    told: list[int] = []
    assert nar(client, remote, path, told.append) == NAR
    assert sum(told) == remote.infos[path].file_size
    assert remote.opened == [remote.nar_name(path)]
    assert remote.open_bodies == 0


@pytest.mark.parametrize("compression", ["none", "xz"])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_nar_goes_on_where_it_broke_off(
    remote: SimulatedCache, client: BinaryCache, compression: Compression, *, ranges: bool
) -> None:
    path = remote.add("a", TREE, compression=compression)
    remote.ranges = ranges
    cut = 700 if compression == "xz" else 1700
    remote.faults[remote.nar_name(path)] = CutAfter(cut)
    told: list[int] = []
    assert nar(client, remote, path, told.append) == NAR
    first, second = remote.requests
    assert first.wanted is None
    assert second.wanted is not None
    assert second.wanted.start == cut
    assert second.wanted.validator is not None
    assert sum(told) == remote.infos[path].file_size


def test_headway_is_no_failure_in_a_row(
    remote: SimulatedCache, client: BinaryCache, clock: Clock
) -> None:
    tree = {b"large": bytes(12 * 1024 * 1024)}
    path = remote.add("a", tree)
    remote.faults[remote.nar_name(path)] = CutAfter(1536 * 1024, times=20)
    assert nar(client, remote, path) == tree_nar(tree)
    assert len(remote.opened) > 5
    assert set(clock.slept) == {0.125}


def test_a_few_bytes_a_try_are_no_headway(remote: SimulatedCache, client: BinaryCache) -> None:
    path = remote.add("a", TREE)
    remote.faults[remote.nar_name(path)] = CutAfter(3000, times=100)
    assert len(NAR) > 5 * 3000
    assert error_of(client, remote, path).facts["tries"] == 5
    assert len(remote.opened) == 5


def test_no_headway_ends_it(remote: SimulatedCache, client: BinaryCache) -> None:
    path = remote.add("a", TREE)
    remote.ranges = False
    remote.faults[remote.nar_name(path)] = CutAfter(3000, times=100)
    error = error_of(client, remote, path)
    assert error.facts["tries"] == 5
    assert len(remote.opened) == 5


def test_an_object_that_is_another_meanwhile_is_read_anew(
    remote: SimulatedCache, client: BinaryCache
) -> None:
    path = remote.add("a", TREE)
    name = remote.nar_name(path)
    remote.faults[name] = CutAfter(3000)

    def change(size: int) -> None:
        remote.objects[name] = b"x" * len(NAR)

    # The validator differs: the whole comes, and what was had is dropped. The hash will tell.
    assert nar(client, remote, path, change) == NAR[:3000] + b"x" * (len(NAR) - 3000)
    assert remote.requests[1].wanted is not None


def test_an_object_that_is_shorter_meanwhile(remote: SimulatedCache, client: BinaryCache) -> None:
    path = remote.add("a", TREE)
    name = remote.nar_name(path)
    remote.faults[name] = CutAfter(3000)

    with client.nar(remote.trusted(path)) as chunks:
        assert next(chunks) == NAR[:1000]
        remote.objects[name] = NAR[:2000]
        assert b"".join(chunks) == NAR[1000:3000]  # too short: the size will tell


def test_an_encoded_nar_that_breaks_off_starts_anew(
    remote: SimulatedCache, client: BinaryCache
) -> None:
    path = remote.add("a", TREE)
    flaky = FlakyEncoding(gzip.compress(NAR, 0), cut=5000)
    told: list[int] = []
    with BinaryCache(flaky, sleep=lambda _: None).nar(
        remote.trusted(path), downloaded=told.append
    ) as chunks:
        assert b"".join(chunks) == NAR
    assert flaky.asked == [None, None]
    assert sum(told) == len(NAR)


def test_an_encoded_part_is_refused(remote: SimulatedCache) -> None:
    path = remote.add("a", TREE)
    flaky = FlakyEncoding(gzip.compress(NAR, 0), cut=5000, plain_first=NAR)
    with (
        BinaryCache(flaky, sleep=lambda _: None).nar(remote.trusted(path)) as chunks,
        pytest.raises(TransportError, match="cannot resume an encoded body"),
    ):
        list(chunks)


def test_a_nar_that_is_gone(remote: SimulatedCache, client: BinaryCache) -> None:
    path = remote.add("a", TREE)
    remote.faults[remote.nar_name(path)] = Missing()
    error = error_of(client, remote, path)
    assert isinstance(error, NarGoneError)
    assert error.exit_code == 3


def test_an_endless_nar(remote: SimulatedCache, client: BinaryCache) -> None:
    path = remote.add("a", TREE)
    remote.faults[remote.nar_name(path)] = Endless(data=NAR)
    error = error_of(client, remote, path)
    assert isinstance(error, TooLargeError)
    assert error.facts["what"] == "compressed archive"


def test_endless_data_that_decodes_to_nothing(remote: SimulatedCache, client: BinaryCache) -> None:
    path = remote.add("a", TREE, compression="zstd")
    skippable = b"\x50\x2a\x4d\x18" + (65528).to_bytes(4, "little") + bytes(65528)
    remote.faults[remote.nar_name(path)] = Endless(filler=skippable)
    assert isinstance(error_of(client, remote, path), TooLargeError)


@pytest.mark.parametrize("compression", ["xz", "zstd", "gzip"])
def test_a_damaged_nar(
    remote: SimulatedCache, client: BinaryCache, compression: Compression
) -> None:
    path = remote.add("a", TREE, compression=compression)
    name = remote.nar_name(path)
    remote.faults[name] = FlippedByte(-3)
    assert isinstance(error_of(client, remote, path), CodecError)
    remote.faults[name] = Truncated(len(remote.objects[name]) - 20)
    assert isinstance(error_of(client, remote, path), TruncatedError)
    remote.faults[name] = Html()
    assert isinstance(error_of(client, remote, path), CodecError)
    assert len(remote.opened) == 3


def test_a_compression_that_nobody_knows(remote: SimulatedCache, client: BinaryCache) -> None:
    path = remote.add("a", TREE)
    remote.publish(replace(remote.infos[path], compression="lrzip"), key=KEY)
    with (
        pytest.raises(UnsupportedCompressionError) as caught,
        client.nar(remote.trusted(path)),
    ):
        pass
    assert caught.value.facts["cache"] == remote.url
    assert remote.opened == []


def test_abandoning_a_nar_lets_go_of_the_connection(
    remote: SimulatedCache, client: BinaryCache
) -> None:
    path = remote.add("a", TREE)
    with client.nar(remote.trusted(path)) as chunks:
        next(chunks)
        assert remote.open_bodies == 1
    assert remote.open_bodies == 0
    with client.nar(remote.trusted(path)):
        pass
    assert remote.open_bodies == 0


def test_the_readers_own_errors_pass_untouched(remote: SimulatedCache, client: BinaryCache) -> None:
    path = remote.add("a", TREE)
    error = OSError("disk full")
    with pytest.raises(OSError, match="disk full") as caught:
        read_and_fail(client, remote, path, error)
    assert caught.value is error
    assert remote.open_bodies == 0


def read_and_fail(
    client: BinaryCache, remote: SimulatedCache, path: StorePath, error: Exception
) -> None:
    with facts(path=path), client.nar(remote.trusted(path)) as chunks:
        next(chunks)
        raise error


def test_close_closes_the_transport(remote: SimulatedCache, client: BinaryCache) -> None:
    client.close()
    assert remote.closed


def test_threads_share_it(remote: SimulatedCache, client: BinaryCache) -> None:
    remote.objects["nix-cache-info"] = CacheInfo(priority=3).render()
    paths = [remote.add(str(number), TREE, compression="xz") for number in range(8)]
    got: list[bytes] = []

    def work(path: StorePath) -> None:
        assert client.priority == 3
        client.lookup(path, POLICY)
        got.append(nar(client, remote, path))

    threads = [threading.Thread(target=work, args=[path]) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [NAR] * 8
    assert remote.opened.count("nix-cache-info") == 1


def test_an_encoding_that_goes_on_and_gives_nothing(
    remote: SimulatedCache, client: BinaryCache
) -> None:
    path = remote.add("a", TREE)
    skippable = b"\x50\x2a\x4d\x18" + (1024 * 1024).to_bytes(4, "little") + bytes(1024 * 1024)
    remote.faults[remote.nar_name(path)] = Replaced(skippable * 4, "zstd")
    error = error_of(client, remote, path)
    assert isinstance(error, TooLargeError)
    assert error.facts["what"] == "encoded archive"


def test_of_signatures_only_such_are_kept_as_can_be_one(
    remote: SimulatedCache, client: BinaryCache
) -> None:
    path = remote.add("a", TREE)
    info = remote.infos[path]
    junk = [Signature(f"evil-{number}", b"x" * 64) for number in range(40)]
    odd = [Signature("evil", b""), Signature(KEY.name, b"short")]
    good = KEY.sign(info.fingerprint())
    remote.publish(replace(info, signatures=(*odd, *junk, good)), key=None)
    kept = client.lookup(path, POLICY).info
    assert kept.signatures[0] == good
    assert len(kept.signatures) == 32
    assert all(len(each.data) == 64 for each in kept.signatures)
    assert kept.raw == b""
