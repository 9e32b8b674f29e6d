from __future__ import annotations

import pytest

from nixfetch.plan.retry import RetrySchedule

SCHEDULE = RetrySchedule()


def test_bounds_double_up_to_the_longest() -> None:
    many = RetrySchedule(tries=10)
    bounds = [many.delay(failures, fraction=1.0) for failures in range(1, 10)]
    assert bounds == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]


def test_jitter_is_full() -> None:
    assert SCHEDULE.delay(1, fraction=0.0) == 0
    assert SCHEDULE.delay(3, fraction=0.5) == 0.5


@pytest.mark.parametrize(("tries", "failures"), [(5, 5), (5, 6), (1, 1), (0, 1)])
def test_gives_up_after_all_tries(tries: int, failures: int) -> None:
    assert RetrySchedule(tries=tries).delay(failures, fraction=0.5) is None


def test_what_the_server_asks_for_is_the_least() -> None:
    assert SCHEDULE.delay(1, fraction=0.5, retry_after=7.0) == 7.0
    assert SCHEDULE.delay(4, fraction=0.5, retry_after=0.1) == 1.0
    assert SCHEDULE.delay(1, fraction=0.5, retry_after=60.0) == 60.0
    assert SCHEDULE.delay(1, fraction=0.5, retry_after=60.1) is None


def test_any_number_of_tries() -> None:
    assert RetrySchedule(tries=10_000).delay(9_999, fraction=0.5) == 5.0
