from __future__ import annotations

import pytest

from nixfetch.plan.timetable import Slot, Timetable
from nixfetch.warm.throttle import TimetableThrottle, minute_of_day


def test_by_the_time_of_the_day() -> None:
    clock, minute = [0.0], [0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    throttle = TimetableThrottle(
        Timetable((Slot.parse("08:00-18:00", 1000),)),
        minute=lambda: minute[0],
        now=lambda: clock[0],
        sleep=sleep,
    )
    throttle(10**6)
    assert slept == []
    minute[0] = 9 * 60
    throttle(1000)
    throttle(1000)
    assert slept == [pytest.approx(0.75), pytest.approx(1.0)]
    throttle(10**6)
    assert slept[-1] == 30.0  # by then it may be evening
    minute[0] = 19 * 60
    throttle(10**6)
    assert len(slept) == 3
    assert 0 <= minute_of_day() < 24 * 60
    throttle.close()
