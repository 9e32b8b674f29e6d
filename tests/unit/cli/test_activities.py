from __future__ import annotations

import json
from typing import Any

from nixfetch.cli.activities import COPY_PATH, COPY_PATHS, PROGRESS, SET_EXPECTED, Activities
from nixfetch.cli.tally import Tally
from nixfetch.errors import NixfetchError
from nixfetch.fetch.progress import Advanced, Failed, Fetched, Found, Started
from nixfetch.formats.storepath import StorePath

A = StorePath.parse("0" * 32 + "-a")
B = StorePath.parse("1" * 32 + "-b")
FIRST = 7 << 32


class Told:
    """Activities, and what they wrote."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.activities = Activities(self._write, process=7)

    def _write(self, line: str) -> None:
        self.lines.append(json.loads(line.removeprefix("@nix ")))


def test_a_path_is_a_copy_to_local_within_the_run() -> None:
    told = Told()
    told.activities.show(Started(A, "https://c"), 1000)
    told.activities.show(Advanced(A, 50, 400), 1000)
    told.activities.show(Advanced(A, 50, 600), 1000)
    told.activities.show(Fetched(A, 1000), 1000)
    told.activities.end()
    assert told.lines == [
        {
            "action": "start",
            "id": FIRST,
            "level": 3,
            "parent": 0,
            "text": "copying paths",
            "type": COPY_PATHS,
        },
        {
            "action": "start",
            "fields": [str(A), "https://c", "local"],
            "id": FIRST + 1,
            "level": 3,
            "parent": FIRST,
            "text": f"copying path '{A}' from 'https://c'",
            "type": COPY_PATH,
        },
        {"action": "result", "fields": [400, 1000, 0, 0], "id": FIRST + 1, "type": PROGRESS},
        {"action": "result", "fields": [1000, 1000, 0, 0], "id": FIRST + 1, "type": PROGRESS},
        {"action": "stop", "id": FIRST + 1},
        {"action": "stop", "id": FIRST},
    ]


def test_another_cache_is_another_activity_and_every_start_has_its_stop() -> None:
    told = Told()
    told.activities.show(Started(A, "https://c"), 10)
    told.activities.show(Started(A, "https://d"), 10)
    told.activities.show(Started(B, "https://d"), 10)
    told.activities.show(Failed(A, NixfetchError("bad")), 10)
    told.activities.show(Advanced(A, 1, 1), 10)  # late: it is over
    told.activities.show(Found(A, 1, 1), 10)
    told.activities.end()
    told.activities.end()
    starts = [line["id"] for line in told.lines if line["action"] == "start"]
    stops = [line["id"] for line in told.lines if line["action"] == "stop"]
    assert len(starts) == 4
    assert sorted(starts) == sorted(stops)


def test_totals_are_told_when_they_change() -> None:
    told = Told()
    tally = Tally(0.0)
    told.activities.totals(tally)
    assert told.lines == []
    tally.take(Found(A, 100, 1000), 0.0)
    told.activities.totals(tally)
    told.activities.totals(tally)
    assert told.lines[1:] == [
        {"action": "result", "fields": [COPY_PATH, 1000], "id": FIRST, "type": SET_EXPECTED},
        {"action": "result", "fields": [0, 1, 0, 0], "id": FIRST, "type": PROGRESS},
    ]
