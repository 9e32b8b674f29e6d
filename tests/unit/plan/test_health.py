from __future__ import annotations

from random import Random

import pytest

from nixfetch.errors import TransportError
from nixfetch.plan.health import BUDGET, FAILURES, UNUSABLE, Budget, Health
from nixfetch.plan.retry import RetrySchedule

DOWN = TransportError("down", retryable=True)
SCHEDULE = RetrySchedule(tries=5, base=1.0)


def fail(health: Health, *, began: float, now: float, error: TransportError = DOWN) -> None:
    health.failed(error, began=began, now=now, fraction=0.5)


def test_a_sound_cache() -> None:
    health = Health(SCHEDULE, Budget())
    assert not health.is_suspect
    assert health.cause is None


def test_failures_in_a_row_are_spaced_out_and_end_it() -> None:
    health, now, waits = Health(SCHEDULE, Budget()), 100.0, []
    for _ in range(4):
        fail(health, began=now, now=now + 1)
        assert health.is_suspect
        assert health.cause is None
        waits.append(health.not_before - (now + 1))
        now = health.not_before
    assert waits == [0.5, 1.0, 2.0, 4.0]
    fail(health, began=now, now=now + 1)
    assert health.cause is DOWN


def test_a_success_makes_it_sound_again() -> None:
    health = Health(SCHEDULE, Budget())
    for number in range(100):
        fail(health, began=number, now=number + 0.5)
        health.succeeded(began=number)
    assert not health.is_suspect
    assert health.cause is None


def test_what_fails_together_is_one_failure() -> None:
    health = Health(SCHEDULE, Budget())
    for number in range(24):
        fail(health, began=number / 100, now=1 + number / 100)
    assert health.cause is None
    assert health.not_before == 1.5


def test_however_few_tries_an_object_has_one_failure_is_none() -> None:
    health = Health(RetrySchedule(tries=1), Budget())
    for number in range(FAILURES):
        assert health.cause is None
        fail(health, began=number, now=number + 0.5)
    assert health.cause is DOWN


def test_retry_after_is_heeded_up_to_a_point() -> None:
    health = Health(SCHEDULE, Budget())
    fail(health, began=0, now=1, error=TransportError("busy", retryable=True, retry_after=60))
    assert health.not_before == 61
    fail(health, began=2, now=3, error=TransportError("busy", retryable=True, retry_after=61))
    assert health.cause is not None


def test_a_cache_that_wants_to_be_left_alone_is() -> None:
    """What was on its way by then says nothing against it."""
    health = Health(SCHEDULE, Budget())
    fail(health, began=0, now=1, error=TransportError("busy", retryable=True, retry_after=9))
    health.succeeded(began=0.5)
    assert health.is_suspect
    assert health.not_before == 10
    health.succeeded(began=10)
    assert not health.is_suspect


def test_it_may_say_so_in_the_second_answer() -> None:
    health = Health(SCHEDULE, Budget())
    fail(health, began=0, now=1)
    health.succeeded(began=0.5)
    before = health.is_suspect
    fail(health, began=0, now=2, error=TransportError("busy", retryable=True, retry_after=9))
    assert (before, health.is_suspect) == (False, True)
    assert health.not_before == 11


def test_of_a_download_only_the_time_since_its_last_headway_is_in_vain() -> None:
    budget = Budget()
    health = Health(SCHEDULE, budget)
    health.failed(DOWN, began=0, now=1000, fraction=0.5, heard=998)
    assert budget.left == BUDGET - 2


def test_answers_of_no_use() -> None:
    health = Health(SCHEDULE, Budget())
    for _ in range(UNUSABLE - 1):
        health.disbelieved()
    assert not health.distrusted()
    health.believed()
    for _ in range(UNUSABLE):
        assert not health.distrusted()
        health.disbelieved()
    assert health.distrusted()


def test_time_is_counted_once_however_many_wait() -> None:
    budget = Budget()
    for _ in range(24):
        budget.spend(10, 15)
    assert budget.left == BUDGET - 5
    budget.spend(20, 22)
    budget.spend(12, 21)
    assert budget.left == BUDGET - 12
    budget.spend(0, 1000)
    assert budget.left == 0


@pytest.mark.parametrize("seed", range(20))
def test_spans_in_any_order_come_to_the_same(seed: int) -> None:
    random = Random(seed)
    spans = [(start, start + random.randrange(1, 5)) for start in random.choices(range(60), k=12)]
    covered = {second for start, end in spans for second in range(start, end)}
    budget = Budget(1000)
    for start, end in spans:
        budget.spend(start, end)
    assert 1000 - budget.left == len(covered)


def test_a_thousand_spans() -> None:
    budget = Budget(1000)
    for number in range(1000):
        budget.spend(number, number + 0.5)
    assert budget.left == 500
