"""NARs through interruptions, within a run and across runs."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest

from nixfetch.cache import BinaryCache
from nixfetch.cache.download import NarForbiddenError, NarGoneError
from nixfetch.cache.memory import LARGE_FILE, LARGE_NAR, Memory
from nixfetch.cache.partial import Partials
from nixfetch.errors import TransportError
from nixfetch.formats.hashes import sha256
from nixfetch.streams.limits import TooLargeError
from simulated_cache import (
    CutAfter,
    FlippedByte,
    Forbidden,
    Missing,
    SimulatedCache,
    Truncated,
    tree_nar,
)

if TYPE_CHECKING:
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import Trusted

TREE = {b"large": Random(1).randbytes(LARGE_FILE)}
NAR = tree_nar(TREE)
CHUNK = 64 * 1024
PART = 16 * CHUNK  # bytes that come before it breaks off


class Run:
    """Downloads as separate runs of a program do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def client(self, remote: SimulatedCache) -> BinaryCache:
        memory = Memory(None, Partials(self.folder, spare=0))
        return BinaryCache(remote, memory=memory, sleep=lambda _: None)

    def whole(self, remote: SimulatedCache, trusted: Trusted, *, anew: bool = False) -> bytes:
        with self.client(remote).nar(trusted, anew=anew) as download:
            data = b"".join(download)
            download.discard()
        return data

    def interrupted(self, remote: SimulatedCache, trusted: Trusted) -> None:
        """The reader goes away after `PART` bytes."""
        with self.client(remote).nar(trusted) as download:
            read = 0
            for chunk in download:
                read += len(chunk)
                if read >= PART:
                    break
        assert remote.open_bodies == 0

    @property
    def kept(self) -> list[int]:
        """Bytes of each partial file, without its head."""
        if not self.folder.exists():
            return []
        return [file.stat().st_size - 512 for file in self.folder.iterdir()]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "partial")


@pytest.fixture
def remote() -> SimulatedCache:
    return SimulatedCache(chunk_size=CHUNK)


def add(remote: SimulatedCache) -> tuple[StorePath, Trusted]:
    path = remote.add("a", TREE)
    return path, remote.trusted(path)


def without_file_hash(trusted: Trusted) -> Trusted:
    return replace(trusted, info=replace(trusted.info, file_hash=None))


def starts(remote: SimulatedCache) -> list[int]:
    """Where each request begins."""
    return [0 if request.wanted is None else request.wanted.start for request in remote.requests]


# Across runs.


def test_the_next_run_goes_on_where_this_one_stopped(run: Run, remote: SimulatedCache) -> None:
    _, trusted = add(remote)
    run.interrupted(remote, trusted)
    assert run.kept == [PART]
    assert run.whole(remote, trusted) == NAR
    assert starts(remote) == [0, PART]
    assert run.kept == []


def test_a_download_that_fails_is_gone_on_with(run: Run, remote: SimulatedCache) -> None:
    path, trusted = add(remote)
    remote.faults[remote.nar_name(path)] = CutAfter(PART // 16, times=100)
    with pytest.raises(TransportError, match="early"):
        run.whole(remote, trusted)
    [kept] = run.kept
    assert kept == 5 * PART // 16
    remote.faults.clear()
    assert run.whole(remote, trusted) == NAR
    assert starts(remote)[-1] == kept


def test_with_a_file_hash_another_cache_gives_the_rest(run: Run, remote: SimulatedCache) -> None:
    _, trusted = add(remote)
    run.interrupted(remote, trusted)
    other = SimulatedCache(url="simulated://other")
    add(other)
    assert run.whole(other, trusted) == NAR
    assert starts(other) == [PART]
    assert other.requests[0].wanted is not None
    assert other.requests[0].wanted.validator is None


def test_without_one_only_the_same_version_does(run: Run, remote: SimulatedCache) -> None:
    _, trusted = add(remote)
    trusted = without_file_hash(trusted)
    run.interrupted(remote, trusted)
    assert run.whole(remote, trusted) == NAR
    assert starts(remote) == [0, PART]
    assert remote.requests[1].wanted is not None
    assert remote.requests[1].wanted.validator == sha256(NAR).digest.hex()


def test_a_remote_without_ranges_sends_all_of_it(run: Run, remote: SimulatedCache) -> None:
    _, trusted = add(remote)
    run.interrupted(remote, trusted)
    remote.ranges = False
    told: list[int] = []
    with run.client(remote).nar(trusted, downloaded=told.append) as download:
        assert b"".join(download) == NAR
    assert sum(told) == len(NAR) - PART


def test_what_came_whole_is_not_asked_for_again(run: Run, remote: SimulatedCache) -> None:
    """It was killed between the last byte and the registration."""
    _, trusted = add(remote)
    with run.client(remote).nar(trusted) as download:
        assert b"".join(download) == NAR
    assert run.kept == [len(NAR)]
    told: list[int] = []
    with run.client(remote).nar(trusted, downloaded=told.append) as download:
        assert b"".join(download) == NAR
    assert told == []


def test_anew_uses_nothing_of_it(run: Run, remote: SimulatedCache) -> None:
    _, trusted = add(remote)
    run.interrupted(remote, trusted)
    [file] = run.folder.iterdir()
    file.write_bytes(file.read_bytes()[:512] + bytes(PART))
    with run.client(remote).nar(trusted) as download:
        assert b"".join(download)[:PART] == bytes(PART)
        assert download.stitched
    assert run.whole(remote, trusted, anew=True) == NAR
    assert starts(remote)[-1] == 0


def test_small_ones_are_not_kept(run: Run, remote: SimulatedCache) -> None:
    small = remote.add("small", b"contents")
    assert run.whole(remote, remote.trusted(small)) == tree_nar(b"contents")
    assert not run.folder.exists()


@pytest.mark.parametrize(("file_size", "nar_size", "kept"), [
    (LARGE_FILE, 1, True),
    (LARGE_FILE - 1, LARGE_NAR, False),
    (None, LARGE_NAR, True),
    (None, LARGE_NAR - 1, False),
])  # fmt: skip
def test_what_is_worth_keeping(
    run: Run, remote: SimulatedCache, file_size: int | None, nar_size: int, *, kept: bool
) -> None:
    _, trusted = add(remote)
    info = replace(trusted.info, file_size=file_size, nar_size=nar_size)
    claimed = Memory(None, Partials(run.folder, spare=0)).claim(remote.url, info)
    assert (claimed is not None) == kept
    if claimed is not None:
        claimed.close()


# Within a run.


def test_who_waits_holds_nothing(remote: SimulatedCache) -> None:
    """Before each try the reader is told: it may have to wait for what other threads learn."""
    path, trusted = add(remote)
    remote.faults[remote.nar_name(path)] = CutAfter(PART, times=3)
    told: list[int] = []
    client = BinaryCache(remote, sleep=lambda _: None)
    with client.nar(trusted, pausing=lambda: told.append(len(remote.requests))) as download:
        assert b"".join(download) == NAR
        assert download.stitched
    assert list(dict.fromkeys(told)) == [0, 1, 2, 3]  # and while it waits


@pytest.mark.parametrize(
    ("fault", "raised"), [(Missing(), NarGoneError), (Forbidden(), NarForbiddenError)]
)
def test_a_nar_that_is_gone(
    run: Run, remote: SimulatedCache, fault: Missing | Forbidden, raised: type[NarGoneError]
) -> None:
    path, trusted = add(remote)
    run.interrupted(remote, trusted)
    remote.faults[remote.nar_name(path)] = fault
    with pytest.raises(NarGoneError) as caught:
        run.whole(remote, trusted)
    assert type(caught.value) is raised
    assert caught.value.exit_code == 3
    assert run.kept == [PART]  # another cache may give the rest


# The file of the narinfo.


def test_the_right_file(remote: SimulatedCache) -> None:
    _, trusted = add(remote)
    with BinaryCache(remote).nar(trusted) as download:
        assert download.wrong_file is None
        assert b"".join(download) == NAR
        assert not download.stitched
    assert download.wrong_file is None


def test_a_wrong_file(remote: SimulatedCache) -> None:
    path, trusted = add(remote)
    remote.faults[remote.nar_name(path)] = FlippedByte(-1)
    with BinaryCache(remote).nar(trusted) as download:
        data = b"".join(download)
    assert download.wrong_file == {
        "expected_file_hash": str(sha256(NAR)),
        "file_hash": str(sha256(data)),
    }


def test_a_file_of_another_size(remote: SimulatedCache) -> None:
    path, trusted = add(remote)
    trusted = without_file_hash(trusted)
    remote.faults[remote.nar_name(path)] = Truncated(100)
    with BinaryCache(remote).nar(trusted) as download:
        assert b"".join(download) == NAR[:100]
    assert download.wrong_file == {"expected_file_size": len(NAR), "file_size": 100}


def test_of_what_did_not_come_whole_nothing_is_known(remote: SimulatedCache) -> None:
    _, trusted = add(remote)
    with BinaryCache(remote).nar(trusted) as download:
        next(download)
    assert download.wrong_file is None


# More than the file.


def test_what_goes_on_behind_the_file_is_cut_off(remote: SimulatedCache) -> None:
    path, trusted = add(remote)
    remote.objects[remote.nar_name(path)] += bytes(3 * CHUNK)
    told: list[int] = []
    read = bytearray()
    with (
        BinaryCache(remote).nar(trusted, downloaded=told.append) as download,
        pytest.raises(TooLargeError) as caught,
    ):
        list(map(read.extend, download))
    assert bytes(read) == NAR
    assert caught.value.facts["limit"] == len(NAR)
    assert sum(told) < len(NAR) + CHUNK


def test_a_size_that_is_too_small_does_no_harm(remote: SimulatedCache) -> None:
    """Nobody signs it; with the right content it is a warning."""
    _, trusted = add(remote)
    trusted = replace(trusted, info=replace(trusted.info, file_size=CHUNK + 10))
    with BinaryCache(remote).nar(trusted) as download:
        assert b"".join(download) == NAR
    assert download.wrong_file == {"expected_file_size": CHUNK + 10, "file_size": len(NAR)}


@pytest.mark.parametrize("size", [None, 0])
def test_a_size_that_is_not_known(remote: SimulatedCache, size: int | None) -> None:
    _, trusted = add(remote)
    trusted = replace(trusted, info=replace(trusted.info, file_size=size))
    with BinaryCache(remote).nar(trusted) as download:
        assert b"".join(download) == NAR
