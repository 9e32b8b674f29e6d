from __future__ import annotations

from typing import TYPE_CHECKING

from nixfetch.cli.unfinished import Unfinished
from nixfetch.errors import StoreError, TransportError
from nixfetch.fetch.progress import Advanced, Failed, Fetched, Found, Present, Started, Walked
from nixfetch.fetch.report import Status
from nixfetch.formats.storepath import StorePath

if TYPE_CHECKING:
    from nixfetch.fetch.progress import Event

HERE, DONE, OPEN, LOST, ASKED = (StorePath.parse(digit * 32 + "-x") for digit in "01234")


def test_what_was_told_is_the_report() -> None:
    ticks = iter((10.0, 12.5))
    unfinished = Unfinished("/root", [ASKED, DONE], now=lambda: next(ticks))
    disk, network = StoreError("disk is full"), TransportError("gone")
    events: list[Event] = [
        Present(HERE),
        Found(DONE, 3, 9),
        Found(OPEN, None, 7),
        Walked(4, 3, 9),
        Started(DONE, "https://a"),
        Advanced(DONE, 3, 9),
        Started(OPEN, "https://a"),
        Started(OPEN, "https://b"),
        Advanced(OPEN, 1, 2),
        Failed(LOST, network),
        Fetched(DONE, 9),
    ]
    for event in events:
        unfinished.learn(event)
    report = unfinished.report(disk)
    assert (report.store, report.requested, report.seconds) == ("/root", (ASKED, DONE), 2.5)
    assert (report.bytes_downloaded, report.bytes_unpacked) == (4, 11)
    assert {path: entry.status for path, entry in report.paths.items()} == {
        HERE: Status.PRESENT,
        DONE: Status.FETCHED,
        OPEN: Status.FAILED,
        LOST: Status.FAILED,
        ASKED: Status.FAILED,
    }
    assert [report.paths[path].error for path in (OPEN, LOST, ASKED)] == [disk, network, disk]
    again = report.paths[OPEN]
    assert (again.cache, again.attempts, again.nar_size) == ("https://b", 2, 7)
