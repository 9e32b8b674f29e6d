"""How many bytes may come in a second, by the time of the day. Knows no clock.

slot      ::= HH:MM "-" HH:MM "=" RATE          22:00-06:00 goes over midnight
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nixfetch.errors import FormatError

DAY = 24 * 60  # minutes
_SLOT = re.compile(r"([01]?\d|2[0-4]):([0-5]\d)-([01]?\d|2[0-4]):([0-5]\d)")


class TimetableError(FormatError):
    """The text is no part of a timetable."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A part of each day, and what may come in it."""

    start: int
    """Minute of the day, from 0."""
    stop: int
    """The minute behind it; before `start` where it goes over midnight."""
    rate: int | None
    """Bytes a second; None: as many as come."""

    @classmethod
    def parse(cls, times: str, rate: int | None) -> Slot:
        """Read ``HH:MM-HH:MM``.

        Raises:
            TimetableError: it is not that, or is empty.
        """
        match = _SLOT.fullmatch(times.strip())
        if match is None:
            raise TimetableError("expected HH:MM-HH:MM", text=times[:80])
        start, stop = (
            int(hour) * 60 + int(minute)
            for hour, minute in ((match[1], match[2]), (match[3], match[4]))
        )
        if start > DAY or stop > DAY or start % DAY == stop % DAY != 0 or start == stop:
            raise TimetableError("no time between the two", text=times[:80])
        return cls(start % DAY, stop % DAY or DAY, rate)

    def holds(self, minute: int) -> bool:
        """Whether `minute` of the day is in it."""
        if self.start < self.stop:
            return self.start <= minute < self.stop
        return minute >= self.start or minute < self.stop


@dataclass(frozen=True, slots=True)
class Timetable:
    """The slots of a day; of those that overlap the first counts."""

    slots: tuple[Slot, ...] = ()
    otherwise: int | None = None
    """Bytes a second at all other times; None: as many as come."""

    def rate(self, minute: int) -> int | None:
        """Bytes a second at a minute of the day; None: as many as come."""
        for slot in self.slots:
            if slot.holds(minute):
                return slot.rate
        return self.otherwise
