"""Threads at the door of a cache: who is let in, who waits, who is told to go on."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from nixfetch.cache.gate import _LOOK, ClosedCacheError, Gate, OutOfPatienceError, Waits
from nixfetch.errors import TransportError
from nixfetch.plan.health import BUDGET, PROMPT, UNUSABLE
from nixfetch.plan.retry import RetrySchedule
from nixfetch.transport.base import AuthenticationError, NotFoundError, Pace

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 30.0  # seconds; a busy machine
DOWN = TransportError("down", retryable=True)


class Clock:
    """Time goes by where somebody sleeps, and where a try takes some."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def waits(self) -> Waits:
        return Waits(now=lambda: self.now, sleep=self.sleep, fraction=lambda: 0.5)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def gate(clock: Clock, *, tries: int = 5) -> Gate:
    return Gate(RetrySchedule(tries=tries), clock.waits(), Pace())


def failing(
    clock: Clock, *, seconds: float = 1.0, error: TransportError = DOWN
) -> Callable[[Pace], str]:
    def once(_: Pace) -> str:
        clock.now += seconds
        raise error

    return once


def test_a_good_cache_is_asked_once(clock: Clock) -> None:
    assert gate(clock).ask(lambda _: "answer", hurried=False) == "answer"
    assert clock.slept == []


def test_a_missing_object_is_an_answer(clock: Clock) -> None:
    door = gate(clock)
    for _ in range(100):
        with pytest.raises(NotFoundError):
            door.ask(failing(clock, error=NotFoundError("none")), hurried=True)
    assert clock.slept == []


def test_a_dead_cache_is_not_asked_any_more(clock: Clock) -> None:
    door = gate(clock)
    with pytest.raises(TransportError, match="down") as caught:
        door.ask(failing(clock), hurried=False)
    assert caught.value.facts["tries"] == 5
    assert clock.slept == [0.125, 0.25, 0.5, 1.0]
    with pytest.raises(OutOfPatienceError, match="not asked any more") as out:
        door.ask(lambda _: "answer", hurried=False)
    assert "down" in str(out.value.facts["reason"])
    assert not out.value.retryable


def test_one_bad_object_is_not_the_cache(clock: Clock) -> None:
    door = gate(clock)
    for _ in range(10):
        with pytest.raises(TransportError, match="down"):
            asking_while_others_succeed(door, clock)
    assert door.ask(lambda _: "answer", hurried=False) == "answer"


def asking_while_others_succeed(door: Gate, clock: Clock) -> str:
    asking = door.asking(hurried=False)
    while True:
        asking.begin()
        clock.now += 0.1
        asking.failed(DOWN)
        door.succeeded(began=clock.now)


def test_authentication_ends_it_at_once(clock: Clock) -> None:
    door = gate(clock)
    with pytest.raises(AuthenticationError):
        door.ask(failing(clock, error=AuthenticationError("who are you")), hurried=False)
    with pytest.raises(OutOfPatienceError) as caught:
        door.ask(lambda _: "answer", hurried=False)
    assert caught.value.exit_code == 5


def test_who_has_another_cache_is_in_a_hurry(clock: Clock) -> None:
    door = gate(clock)
    paces: list[Pace] = []
    door.ask(paces.append, hurried=True)
    door.ask(paces.append, hurried=False)
    assert [(pace.connect, pace.stall) for pace in paces] == [(5.0, 10.0), (15.0, 60.0)]


def test_the_user_s_own_limits_may_be_stricter(clock: Clock) -> None:
    door = Gate(RetrySchedule(), clock.waits(), Pace(connect=2, stall=None))
    paces: list[Pace] = []
    door.ask(paces.append, hurried=True)
    assert [(pace.connect, pace.stall) for pace in paces] == [(2, 10.0)]


def test_the_budget_is_all_there_is(clock: Clock) -> None:
    """Of many objects of a cache that is slow to fail; the time in between is none of it."""
    door = gate(clock)
    for _ in range(100):
        clock.now += 1000
        with pytest.raises(TransportError):
            door.ask(failing(clock, seconds=9), hurried=True)
        door.succeeded(began=clock.now)  # somebody else's object came
    began = clock.now
    with pytest.raises(OutOfPatienceError):
        door.ask(failing(clock, seconds=9), hurried=True)
    assert clock.now == began
    assert sum(clock.slept) < BUDGET
    # Who has no other cache asks all the same.
    assert door.ask(lambda _: "answer", hurried=False) == "answer"


def test_what_is_left_of_the_budget_limits_a_try(clock: Clock) -> None:
    door = gate(clock)
    with pytest.raises(TransportError):
        door.ask(failing(clock, seconds=26, error=TransportError("refused")), hurried=True)
    door.succeeded(began=clock.now)
    paces: list[Pace] = []
    door.ask(paces.append, hurried=True)
    assert paces[0].stall == pytest.approx(4)


def test_a_long_retry_after_means_the_next_cache(clock: Clock) -> None:
    door = gate(clock)
    busy = TransportError("busy", retryable=True, retry_after=50)
    with pytest.raises(OutOfPatienceError):
        door.ask(failing(clock, error=busy), hurried=True)
    assert clock.slept == []


def test_who_is_out_of_patience_may_come_back(clock: Clock) -> None:
    """As long as the cache is not dead."""
    door = gate(clock)
    with pytest.raises(TransportError):
        door.ask(failing(clock, seconds=31, error=TransportError("refused")), hurried=True)
    with pytest.raises(OutOfPatienceError) as caught:
        door.ask(lambda _: "answer", hurried=True)
    assert caught.value.retryable
    assert door.ask(lambda _: "answer", hurried=False) == "answer"


def test_a_cache_that_asks_to_be_left_alone_is_left_alone_by_all(clock: Clock) -> None:
    door = gate(clock)
    early, busy = door.asking(hurried=False), door.asking(hurried=False)
    early.begin()
    busy.begin()
    clock.now += 1
    busy.failed(TransportError("busy", retryable=True, retry_after=20))
    early.succeeded()
    assert door.ask(lambda _: "answer", hurried=False) == "answer"
    assert clock.slept == [20]


def test_what_is_given_up_is_not_asked(clock: Clock) -> None:
    door = gate(clock)
    door.give_up(TransportError("not for us"))
    with pytest.raises(OutOfPatienceError, match="not for us"):
        door.ask(lambda _: "answer", hurried=False)


def test_a_large_download_that_breaks_off_costs_little_patience(clock: Clock) -> None:
    door = gate(clock)
    large = door.asking(hurried=True)
    large.begin()
    for _ in range(100):
        clock.now += 5
        large.makes_headway()
    clock.now += 1
    large.failed(DOWN)
    assert door.ask(lambda _: "answer", hurried=True) == "answer"


def test_who_slept_looks_again(clock: Clock) -> None:
    """The cache has died meanwhile: no try is wasted on it."""

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        door.give_up(TransportError("gone for good"))

    waits = Waits(now=lambda: clock.now, sleep=sleep, fraction=lambda: 0.5)
    door = Gate(RetrySchedule(), waits, Pace())
    failed = door.asking(hurried=False)
    failed.begin()
    clock.now += 1
    failed.failed(DOWN)
    door.succeeded(began=clock.now)  # it is sound again, but for this object
    with pytest.raises(OutOfPatienceError, match="gone for good"):
        failed.begin()


def test_answers_of_no_use_mean_the_next_cache(clock: Clock) -> None:
    door = gate(clock)
    for _ in range(UNUSABLE):
        door.ask(lambda _: "nonsense", hurried=True)
        door.disbelieved(TransportError("nonsense"))
    with pytest.raises(OutOfPatienceError):
        door.ask(lambda _: "answer", hurried=True)
    assert door.ask(lambda _: "answer", hurried=False) == "answer"
    door.believed()
    assert door.ask(lambda _: "answer", hurried=True) == "answer"


# With threads, and a clock that goes by itself.


def real(*, tries: int = 5) -> tuple[Gate, Waits]:
    waits = Waits(now=time.monotonic, sleep=None, fraction=lambda: 0.01)
    return Gate(RetrySchedule(tries=tries), waits, Pace()), waits


def test_who_waits_for_a_suspect_cache_is_let_in_when_it_is_back() -> None:
    door, _ = real()
    down, barrier = threading.Event(), threading.Barrier(24)
    down.set()
    results: list[str] = []

    def once(_: Pace) -> str:
        time.sleep(0.001)
        if down.is_set():
            raise DOWN
        return "answer"

    def work() -> None:
        barrier.wait(PATIENCE)
        results.append(door.ask(once, hurried=False))

    def mend() -> None:
        time.sleep(0.004)
        down.clear()

    threads = [threading.Thread(target=work) for _ in range(23)]
    for thread in threads:
        thread.start()
    barrier.wait(PATIENCE)
    mend()
    for thread in threads:
        thread.join(PATIENCE)
    assert results == ["answer"] * 23


def test_a_dead_cache_costs_few_requests() -> None:
    door, _ = real()
    requests: list[float] = []
    barrier = threading.Barrier(24)
    errors: list[TransportError] = []

    def once(_: Pace) -> str:
        requests.append(time.monotonic())
        raise DOWN

    def work() -> None:
        barrier.wait(PATIENCE)
        for _ in range(10):
            with pytest.raises(TransportError) as caught:
                door.ask(once, hurried=False)
            errors.append(caught.value)

    threads = [threading.Thread(target=work) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(errors) == 240
    assert len(requests) <= 60


def test_who_is_in_a_hurry_does_not_wait_for_who_is_not() -> None:
    door, waits = real()
    waits.budget.seconds = 0.2
    failed = door.asking(hurried=False)
    failed.begin()
    failed.failed(DOWN)
    failed.begin()  # looks, for as long as it takes
    with pytest.raises(OutOfPatienceError):
        door.ask(lambda _: "answer", hurried=True)
    failed.succeeded()
    assert door.ask(lambda _: "answer", hurried=False) == "answer"


def test_closing_wakes_who_waits() -> None:
    waits = Waits(now=time.monotonic, sleep=None, fraction=lambda: 0.99)
    door = Gate(RetrySchedule(tries=5, base=1000.0, longest=1000.0), waits, Pace())
    errors: list[BaseException] = []

    def work() -> None:
        try:
            door.ask(lambda _: (_ for _ in ()).throw(DOWN), hurried=False)
        except TransportError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    assert errors == []
    door.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert [type(error) for error in errors] == [ClosedCacheError] * 5


def test_closing_wakes_them_just_when_they_look_again_as_well() -> None:
    doors = []
    threads = []
    for _ in range(20):
        waits = Waits(now=time.monotonic, sleep=None, fraction=lambda: 0.99)
        door = Gate(RetrySchedule(tries=5, base=1000.0, longest=1000.0), waits, Pace())
        doors.append(door)

        def work(door: Gate = door) -> None:
            with pytest.raises(ClosedCacheError):
                door.ask(lambda _: (_ for _ in ()).throw(DOWN), hurried=False)

        threads += [threading.Thread(target=work, daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()
    time.sleep(_LOOK)
    for door in doors:
        door.close()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_try_that_is_abandoned_lets_the_next_one_in(clock: Clock) -> None:
    door = gate(clock)
    failed = door.asking(hurried=False)
    failed.begin()
    clock.now += 1
    failed.failed(DOWN)

    class Stopped(BaseException):
        pass

    def stop(_: Pace) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        door.ask(stop, hurried=False)
    assert door.ask(lambda _: "answer", hurried=False) == "answer"


def test_a_try_that_goes_well_lets_the_others_in(clock: Clock) -> None:
    door = gate(clock)
    failed = door.asking(hurried=False)
    failed.begin()
    clock.now += 1
    failed.failed(DOWN)
    large = door.asking(hurried=False)
    large.begin()
    large.makes_headway()
    assert door.ask(lambda _: "answer", hurried=False) == "answer"
    large.succeeded()


class _GivenUpError(Exception):
    """Whoever waits is told so."""


def giving_up(after: int) -> Callable[[], None]:
    left = iter(range(after))

    def pausing() -> None:
        if next(left, None) is None:
            raise _GivenUpError

    return pausing


def test_who_waits_for_the_next_try_may_give_up() -> None:
    waits = Waits(now=time.monotonic, sleep=None, fraction=lambda: 0.5)
    door = Gate(RetrySchedule(), waits, Pace())
    asking = door.asking(hurried=False, pausing=giving_up(3))
    asking.begin()
    asking.failed(TransportError("busy", retryable=True, retry_after=PATIENCE))
    with pytest.raises(_GivenUpError):
        asking.begin()
    # And does not stand in the way of others.
    other = door.asking(hurried=False, pausing=giving_up(3))
    with pytest.raises(_GivenUpError):
        other.begin()


def test_who_waits_for_what_another_one_learns_may_give_up() -> None:
    waits = Waits(now=time.monotonic, sleep=None, fraction=lambda: 0.0)
    door = Gate(RetrySchedule(), waits, Pace())
    looking = door.asking(hurried=False)
    looking.begin()
    looking.failed(DOWN)
    looking.begin()
    with pytest.raises(_GivenUpError):
        door.asking(hurried=False, pausing=giving_up(3)).begin()
    looking.succeeded()
    door.asking(hurried=False).begin()


def test_the_reason_names_no_object(clock: Clock) -> None:
    error = TransportError(
        "busy", retryable=True, status=503, url="http://one/a", path="a", tries=2
    )
    door = gate(clock)
    with pytest.raises(TransportError, match="busy"):
        door.ask(failing(clock, error=error), hurried=False)
    with pytest.raises(OutOfPatienceError) as caught:
        door.ask(failing(clock), hurried=False)
    assert caught.value.facts["reason"] == "busy (status=503)"


@pytest.mark.parametrize("missing", [True, False])
def test_answers_that_come_late_cost_patience(clock: Clock, *, missing: bool) -> None:
    """While there is another cache; and it is not dead: whoever has none goes on asking it."""
    door = gate(clock)

    def once(pace: Pace) -> str:
        clock.now += PROMPT + 8
        pace.answered(PROMPT + 8)
        if missing:
            raise NotFoundError("none")
        return "answer"

    def ask(*, hurried: bool) -> None:
        if missing:
            with pytest.raises(NotFoundError):
                door.ask(once, hurried=hurried)
        else:
            assert door.ask(once, hurried=hurried) == "answer"

    for _ in range(4):
        ask(hurried=True)
    with pytest.raises(OutOfPatienceError) as caught:
        door.ask(once, hurried=True)
    assert caught.value.retryable
    assert caught.value.facts["reason"] == "answers take too long"
    ask(hurried=False)


def test_prompt_answers_cost_none(clock: Clock) -> None:
    door = gate(clock)

    def once(pace: Pace) -> str:
        clock.now += 100  # of which most went by before there was a connection
        pace.answered(PROMPT)
        return "answer"

    for _ in range(100):
        assert door.ask(once, hurried=True) == "answer"
