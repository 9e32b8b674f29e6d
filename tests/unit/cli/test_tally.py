from __future__ import annotations

import pytest

from nixfetch.cli.tally import Tally
from nixfetch.errors import NixfetchError
from nixfetch.fetch.progress import (
    Advanced,
    Event,
    Failed,
    Fetched,
    Found,
    Present,
    Spent,
    Started,
    Walked,
)
from nixfetch.formats.storepath import StorePath

A = StorePath.parse("0" * 32 + "-a")
B = StorePath.parse("1" * 32 + "-b")
WALKED = Walked(paths=2, file_size=300, nar_size=3000)


def tally(*events: Event, now: float = 0.0) -> Tally:
    counted = Tally(0.0)
    for event in events:
        counted.take(event, now)
    return counted


def test_totals_grow_as_paths_are_found() -> None:
    counted = tally(Present(B), Found(A, 100, 1000))
    assert (counted.paths, counted.to_download, counted.to_unpack) == (1, 100, 1000)
    assert not counted.walked
    counted = tally(Found(A, 100, 1000), Found(B, None, 2000), WALKED)
    assert (counted.paths, counted.to_download, counted.to_unpack) == (2, 2100, 3000)
    assert counted.walked


def test_a_second_try_begins_at_zero() -> None:
    counted = tally(Found(A, 100, 1000), Started(A, "x"), Advanced(A, 60, 600), Started(A, "y"))
    assert (counted.downloaded, counted.unpacked) == (0, 0)
    counted.take(Advanced(A, 100, 1000), 0.0)
    counted.take(Fetched(A, 1000), 0.0)
    assert (counted.downloaded, counted.unpacked, counted.fetched) == (100, 1000, 1)


def test_what_a_failed_path_would_have_brought_is_no_longer_expected() -> None:
    error = NixfetchError("bad")
    counted = tally(Found(A, 100, 1000), Found(B, 200, 2000), Started(A, "x"), Advanced(A, 60, 600))
    counted.take(Failed(A, error), 0.0)
    assert (counted.paths, counted.failed) == (1, 1)
    assert (counted.to_download, counted.to_unpack) == (260, 2600)
    counted.take(Failed(StorePath.parse("2" * 32 + "-never-found"), error), 0.0)
    assert (counted.paths, counted.failed) == (1, 2)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    counted = tally(Found(A, 10_000, 10_000), Started(A, "x"))
    for second in range(1, 31):
        if second <= 10:
            counted.take(Advanced(A, 100, 100), float(second))
        counted.sample(float(second))
        if second == 10:
            assert counted.rate == pytest.approx(100.0)
    assert counted.rate == 0


def test_time_left_needs_all_of_the_closure_and_a_rate() -> None:
    counted = tally(Found(A, 1000, 1000), Started(A, "x"))
    assert counted.seconds_left is None
    counted.take(Advanced(A, 100, 100), 1.0)
    counted.sample(1.0)
    assert counted.seconds_left is None
    counted.take(WALKED, 1.0)
    assert counted.seconds_left == pytest.approx(9.0)
    counted.take(Advanced(A, 900, 900), 2.0)
    assert counted.seconds_left is None


def test_what_it_waits_for() -> None:
    counted = tally(Found(A, 1000, 1000))
    assert counted.waiting_for(0.0) == "narinfos"
    counted.take(WALKED, 0.0)
    assert counted.waiting_for(0.0) is None
    counted.take(Started(A, "x"), 0.0)
    assert counted.waiting_for(5.0) == "network"  # not a byte yet
    for spent, what in (
        (Spent(network=1.0), "network"),
        (Spent(decoding=3.0), "decompression"),
        (Spent(disk=9.0), "disk"),
    ):
        counted.take(Advanced(A, 10, 10, spent), 6.0)
        counted.sample(6.0)
        assert counted.waiting_for(6.0) == what
    assert counted.waiting_for(8.0) == "network"  # silence
    counted.take(Advanced(A, 970, 970), 9.0)
    assert counted.waiting_for(20.0) == "disk"  # all is unpacked, and not yet registered
    counted.take(Fetched(A, 1000), 20.0)
    assert counted.waiting_for(20.0) is None
