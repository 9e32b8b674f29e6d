from __future__ import annotations

import pytest

from nixfetch.plan.timetable import Slot, Timetable, TimetableError


def at(text: str) -> int:
    hour, minute = text.split(":")
    return int(hour) * 60 + int(minute)


@pytest.mark.parametrize(
    ("times", "inside", "outside"),
    [
        ("08:00-18:00", ["08:00", "12:34", "17:59"], ["07:59", "18:00", "00:00"]),
        ("22:00-06:00", ["22:00", "23:59", "00:00", "05:59"], ["06:00", "21:59"]),
        ("0:00-24:00", ["00:00", "23:59"], []),
        ("18:00-24:00", ["18:00", "23:59"], ["00:00", "17:59"]),
        ("23:00-00:00", ["23:30"], ["00:00"]),
    ],
)
def test_slots(times: str, inside: list[str], outside: list[str]) -> None:
    slot = Slot.parse(times, 5)
    assert [text for text in inside + outside if slot.holds(at(text))] == inside


@pytest.mark.parametrize(
    "text", ["", "8-18", "08:00", "08:00-08:00", "25:00-26:00", "24:30-02:00", "08:60-09:00", "x"]
)
def test_no_slots(text: str) -> None:
    with pytest.raises(TimetableError):
        Slot.parse(text, 5)


def test_the_first_counts() -> None:
    table = Timetable((Slot.parse("08:00-12:00", 1), Slot.parse("08:00-18:00", None)), 3)
    assert [table.rate(at(time)) for time in ("09:00", "13:00", "20:00")] == [1, None, 3]
    assert Timetable().rate(0) is None
