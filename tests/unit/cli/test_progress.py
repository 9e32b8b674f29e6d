from __future__ import annotations

import io
import json
import time
from typing import TYPE_CHECKING

import pytest

from nixfetch import config
from nixfetch.cli.context import Context
from nixfetch.cli.output import Output
from nixfetch.cli.progress import (
    Bar,
    JsonLines,
    NixActivities,
    Plain,
    Progress,
    Silent,
    choose,
    duration,
    fitted,
    showing_progress,
    summary_of,
)
from nixfetch.cli.sizes import amount
from nixfetch.errors import TrustError
from nixfetch.fetch import PathReport, Report, Status
from nixfetch.fetch.progress import (
    Advanced,
    Failed,
    Fetched,
    Found,
    Present,
    Spent,
    Started,
    Walked,
)
from nixfetch.formats.storepath import StorePath

if TYPE_CHECKING:
    from collections.abc import Mapping

A = StorePath.parse("0" * 32 + "-a")
B = StorePath.parse("1" * 32 + "-b")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def context(
    flags: Mapping[str, object] | None = None, *, steerable: bool = False
) -> tuple[Context, io.BytesIO]:
    err = io.BytesIO()
    settings = config.load_config(flags or {}, {"HOME": "/nowhere", "XDG_CONFIG_DIRS": "/nowhere"})
    return Context(settings, Output(io.BytesIO(), err), steerable), err


def started(progress: Progress) -> None:
    progress.show(Found(A, 1_000_000, 4_000_000))
    progress.show(Walked(1, 1_000_000, 4_000_000))
    progress.show(Started(A, "https://c"))


def report(*statuses: Status) -> Report:
    made = Report(store="/s", requested=(), bytes_downloaded=1500, bytes_unpacked=2_000_000)
    made.seconds = 1.26
    for number, status in enumerate(statuses):
        path = StorePath.parse(f"{number:032d}-p")
        made.paths[path] = PathReport(path=path, status=status, nar_size=2000, file_size=1000)
    return made


F, P, X, W = Status.FETCHED, Status.PRESENT, Status.FAILED, Status.WANTED


@pytest.mark.parametrize(
    ("statuses", "text"),
    [
        ((F,), "fetched 1 path: 1.5 KB downloaded, 2.0 MB unpacked in 1.3 s"),
        ((F, F, X), "fetched 2 paths, 1 failed: 1.5 KB downloaded, 2.0 MB unpacked in 1.3 s"),
        ((X,), "fetched 0 paths, 1 failed: 1.5 KB downloaded, 2.0 MB unpacked in 1.3 s"),
        ((P, P, P), "all 3 paths are there already"),
        ((P,), "the path is there already"),
        ((W, W, P), "would fetch 2 paths, 1 already there: 2.0 KB to download, 4.0 KB unpacked"),
        ((W, X), "would fetch 1 path, 1 failed: 1.0 KB to download, 2.0 KB unpacked"),
    ],
)
def test_summaries(statuses: tuple[Status, ...], text: str) -> None:
    assert summary_of(report(*statuses)) == text


def test_a_plain_line_comes_though_nothing_happens() -> None:
    clock, err = Clock(), io.BytesIO()
    plain = Plain(Output(None, err), now=clock)
    plain.show(Found(A, 1_000_000, 4_000_000))
    clock.now = 5.0
    plain.tick()
    plain.show(Walked(1, 1_000_000, 4_000_000))
    plain.show(Started(A, "https://c"))
    clock.now = 6.0
    plain.show(Advanced(A, 250_000, 1_000_000, Spent(decoding=1.0)))
    plain.tick()
    clock.now = 20.0
    plain.tick()
    clock.now = 21.0
    plain.show(Failed(A, TrustError("bad")))
    plain.tick()
    assert err.getvalue().decode().splitlines() == [
        "0/1+ paths, 0 B of 1.0 MB+, 0 B/s, waits for narinfos",
        "0/1 paths, 250.0 KB of 1.0 MB, 41.7 KB/s, 18 s left, waits for decompression",
        "0/1 paths, 250.0 KB of 1.0 MB, 0 B/s, waits for network",
        "0/0 paths, 1 failed, 250.0 KB of 250.0 KB, 0 B/s",
    ]


def test_plain_lines_take_the_form_of_the_logs() -> None:
    err = io.BytesIO()
    plain = Plain(Output(None, err), log_format="json")
    plain.tick()
    plain.summary(report(P))
    first, second = map(json.loads, err.getvalue().splitlines())
    assert first["level"] == "info"
    assert second["message"] == "the path is there already"


def test_the_bar_is_redrawn_and_goes_before_the_summary() -> None:
    clock, err = Clock(), io.BytesIO()
    bar = Bar(Output(None, err), now=clock)
    bar.tick()
    started(bar)
    clock.now = 1.0
    bar.show(Advanced(A, 500_000, 2_000_000, Spent(network=1.0)))
    bar.tick()
    bar.show(Fetched(A, 4_000_000))
    bar.summary(report(F))
    drawn = err.getvalue().decode().split("\r\x1b[J")
    assert drawn[1].startswith("[##")
    assert drawn[1].endswith(
        "0/1 paths, 500.0 KB of 1.0 MB, 500.0 KB/s, 1 s left, waits for network"
    )
    assert len(drawn[1]) < 80
    assert drawn[2].startswith("fetched 1 path: ")


@pytest.mark.parametrize("width", range(-1, 120))
def test_a_bar_is_never_wider_than_the_terminal(width: int) -> None:
    parts = ["11/200 paths", "1.2 MB of 3.4 MB", "5.6 MB/s", "7 s left", "waits for network"]
    text = fitted(parts, 0.5, width)
    assert len(text) <= max(0, width)
    if width >= len("11/200 paths"):
        assert "11/200 paths" in text
    if width == 119:
        assert text == f"[{'#' * 15}{'-' * 15}] {', '.join(parts)}"


def test_json_lines_are_the_events() -> None:
    err = io.BytesIO()
    lines = JsonLines(Output(None, err))
    lines.show(Present(B))
    lines.show(Found(A, None, 4))
    lines.show(Walked(2, 3, 4))
    lines.show(Started(A, "https://c"))
    lines.show(Advanced(A, 1, 2, Spent(network=0.123456)))
    lines.show(Fetched(A, 4))
    lines.show(Failed(B, TrustError("bad", size=1)))
    lines.tick()
    lines.summary(report(F))
    assert list(map(json.loads, err.getvalue().splitlines())) == [
        {"event": "present", "path": str(B)},
        {"event": "found", "path": str(A), "file_size": None, "nar_size": 4},
        {"event": "walked", "paths": 2, "file_size": 3, "nar_size": 4},
        {"event": "started", "path": str(A), "cache": "https://c"},
        {
            "event": "advanced",
            "path": str(A),
            "downloaded": 1,
            "unpacked": 2,
            "spent": {"network": 0.1235, "decoding": 0, "disk": 0},
        },
        {"event": "fetched", "path": str(A), "nar_size": 4},
        {
            "event": "failed",
            "path": str(B),
            "error": {"error": "bad", "exit_code": 4, "facts": {"size": 1}},
        },
    ]


def test_nixs_activities_know_the_size_of_each_path() -> None:
    err = io.BytesIO()
    activities = NixActivities(Output(None, err))
    started(activities)
    activities.show(Advanced(A, 1, 2))
    activities.tick()
    activities.show(Fetched(A, 4_000_000))
    activities.summary(report(F))
    lines = [
        json.loads(line.removeprefix("@nix ")) for line in err.getvalue().decode().splitlines()
    ]
    assert {"action": "result", "fields": [2, 4_000_000, 0, 0], "type": 105} in [
        {name: value for name, value in line.items() if name != "id"} for line in lines
    ]
    assert lines[-1]["msg"].startswith("fetched 1 path")
    assert [line["action"] for line in lines].count("start") == 2
    assert [line["action"] for line in lines].count("stop") == 2


@pytest.mark.parametrize(
    ("flags", "steerable", "kind"),
    [
        ({}, True, Bar),
        ({}, False, Plain),
        ({"log_format": "json"}, True, Plain),
        ({"log_format": "internal-json"}, True, NixActivities),
        ({"verbosity": -1}, True, Silent),
        ({"verbosity": -1, "progress": "json"}, True, JsonLines),
        ({"progress": "tty"}, False, Bar),
        ({"progress": "plain"}, True, Plain),
        ({"progress": "none"}, True, Silent),
    ],
)
def test_which_display(flags: dict[str, object], steerable: bool, kind: type[Progress]) -> None:
    made, _ = context(flags, steerable=steerable)
    assert type(choose(made)) is kind


def test_a_silent_one_says_nothing() -> None:
    made, err = context({"progress": "none"})
    with showing_progress(made) as progress:
        started(progress)
        progress.summary(report(F))
    assert err.getvalue() == b""


def test_the_bar_moves_by_itself_and_is_gone_at_the_end() -> None:
    made, err = context({"progress": "tty"})
    with showing_progress(made) as progress:
        started(progress)
        deadline = time.monotonic() + 5
        while b"0/1 paths" not in err.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert b"0/1 paths" in err.getvalue()
    assert err.getvalue().endswith(b"\r\x1b[J")


def test_numbers_for_people() -> None:
    assert [amount(n) for n in (0, 999, 1000, 1.25e6, 9.99e9, 5e12, 5e15)] == [
        "0 B",
        "999 B",
        "1.0 KB",
        "1.2 MB",
        "10.0 GB",
        "5.0 TB",
        "5000.0 TB",
    ]
    assert [duration(n) for n in (0.4, 59, 60, 200, 7500)] == [
        "0 s",
        "59 s",
        "1 min 0 s",
        "3 min 20 s",
        "2 h 5 min",
    ]
