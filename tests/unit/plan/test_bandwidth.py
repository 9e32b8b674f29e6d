from __future__ import annotations

import pytest

from nixfetch.plan.bandwidth import BURST, Bandwidth


def test_a_long_download_keeps_to_the_rate() -> None:
    bandwidth, now, size = Bandwidth(1000.0), 50.0, 0
    while size < 100_000:
        size += 700
        now += bandwidth.take(700, now=now)
    assert (now - 50) == pytest.approx(100, abs=1)


def test_many_at_once_share_it() -> None:
    bandwidth = Bandwidth(1000.0)
    waits = [bandwidth.take(1000, now=0.0) for _ in range(5)]
    assert waits == [pytest.approx(second - BURST) for second in range(1, 6)]


def test_who_was_idle_has_saved_no_more_than_a_burst() -> None:
    bandwidth = Bandwidth(1000.0)
    bandwidth.take(1, now=0.0)
    assert bandwidth.take(int(1000 * BURST), now=1000.0) == 0.0
    assert bandwidth.take(1000, now=1000.0) == pytest.approx(1.0)
