from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest

from nixfetch.errors import TransportError
from nixfetch.transport import Pace
from nixfetch.transport.http1.connection import ClosedTransportError, Connection
from nixfetch.transport.http1.dial import Target
from nixfetch.transport.http1.pool import KEEPALIVE, Pool
from servers import wait_until

HERE = Target("http", "cache.example", 80)
THERE = Target("http", "bucket.example", 80)
PACE = Pace()


class Fake:
    """A connection that is none."""

    def __init__(self) -> None:
        self.alive = True
        self.closed = False
        self.aborted = False
        self.idle_since = 0.0

    def is_alive(self) -> bool:
        return self.alive

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


class Office:
    """A pool of fakes, and all that were made."""

    def __init__(self, most: int = 2) -> None:
        self.made: list[Fake] = []
        self.now = 100.0
        self.pool = Pool(most=most, dial=self._dial, clock=lambda: self.now)

    def _dial(self, _target: Target, _pace: Pace) -> Connection:
        self.made.append(Fake())
        return cast("Connection", self.made[-1])

    def take(self, target: Target = HERE, *, fresh: bool = False) -> Connection:
        return self.pool.take(target, PACE, fresh=fresh)

    def open(self) -> int:
        return sum(not each.closed for each in self.made)


def test_what_is_kept_is_used_again_for_the_same_target() -> None:
    office = Office()
    first = office.take()
    office.pool.keep(HERE, first)
    assert office.take() is first
    assert office.take(THERE) is not first
    assert len(office.made) == 2


def test_what_is_dropped_is_not() -> None:
    office = Office()
    office.pool.drop(office.take())
    assert office.made[0].closed
    office.take()
    assert len(office.made) == 2


def test_the_one_used_last_comes_first() -> None:
    office = Office()
    first, second = office.take(), office.take()
    office.pool.keep(HERE, first)
    office.pool.keep(HERE, second)
    assert office.take() is second


def test_the_dead_the_old_and_the_unwanted_are_passed_over() -> None:
    office = Office(most=3)
    for connection in [office.take() for _ in range(3)]:
        office.pool.keep(HERE, connection)
    office.made[2].alive = False
    assert office.take() is cast("Connection", office.made[1])
    office.now += KEEPALIVE
    assert office.take() is cast("Connection", office.made[3])
    assert [each.closed for each in office.made] == [True, False, True, False]
    office.pool.keep(HERE, cast("Connection", office.made[3]))
    assert office.take(fresh=True) is cast("Connection", office.made[4])


def test_kept_ones_make_room() -> None:
    office = Office(most=2)
    for connection in [office.take(), office.take()]:
        office.pool.keep(HERE, connection)
    office.take(THERE)
    assert office.open() == 2
    assert office.made[0].closed


def test_giving_back_twice_is_giving_back_once() -> None:
    office = Office(most=1)
    connection = office.take()
    for _ in range(3):
        office.pool.keep(HERE, connection)
        office.pool.drop(connection)
    assert office.take() is connection
    assert not office.made[0].closed


def test_everybody_gets_a_turn_and_no_more_are_open_than_allowed() -> None:
    office = Office(most=3)
    lock = threading.Lock()
    most = busy = 0

    def work(number: int) -> None:
        nonlocal most, busy
        target = (HERE, THERE)[number % 2]
        connection = office.take(target)
        with lock:
            busy += 1
            most = max(most, busy, office.open())
        with lock:
            busy -= 1
        if number % 3:
            office.pool.keep(target, connection)
        else:
            office.pool.drop(connection)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(500)))
    assert most <= 3


def test_who_cannot_be_reached_takes_no_turn_away() -> None:
    def dial(_target: Target, _pace: Pace) -> Connection:
        raise TransportError("cannot connect")

    pool = Pool(most=1, dial=dial)
    for _ in range(3):
        with pytest.raises(TransportError, match="cannot connect"):
            pool.take(HERE, PACE)


def test_closing() -> None:
    office = Office(most=2)
    kept, used = office.take(), office.take()
    office.pool.keep(HERE, kept)
    office.pool.close()
    idle, busy = office.made
    assert (idle.closed, idle.aborted) == (True, False)
    assert (busy.closed, busy.aborted) == (False, True)  # whoever has it closes it
    office.pool.keep(HERE, used)
    assert busy.closed
    with pytest.raises(ClosedTransportError):
        office.take()
    assert len(office.made) == 2
    office.pool.close()


def test_closing_wakes_those_who_wait_for_their_turn() -> None:
    office = Office(most=1)
    office.take()
    failures: list[BaseException] = []

    def wait() -> None:
        try:
            office.take()
        except ClosedTransportError as error:
            failures.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    office.pool.close()
    for thread in threads:
        thread.join(10)
    assert len(failures) == 3


def test_a_connection_that_comes_after_the_end_is_closed() -> None:
    office = Office()
    dialing, closed = threading.Event(), threading.Event()

    def dial(_target: Target, _pace: Pace) -> Connection:
        office.made.append(Fake())
        dialing.set()
        assert closed.wait(10)
        return cast("Connection", office.made[-1])

    pool = Pool(most=1, dial=dial)
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(pool.take, HERE, PACE)
        assert dialing.wait(10)
        pool.close()
        closed.set()
        assert isinstance(future.exception(10), ClosedTransportError)
    wait_until(lambda: office.made[0].closed)
