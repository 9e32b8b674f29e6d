from __future__ import annotations

import re

import pytest

import nixfetch
from fake_closures import store_path
from snapshotter.metrics import BUCKETS, Metrics

SAMPLE = re.compile(r'[a-z_]+(\{[a-z_]+="(?:[^"\\\n]|\\.)*"(,[a-z_]+="(?:[^"\\\n]|\\.)*")*\})? \S+')


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(version="1", now=lambda: 1_700_000_000.5)


def samples(metrics: Metrics, **snapshots: int) -> dict[str, float]:
    """All of them, by name and labels; the text has to be what Prometheus reads."""
    found = {}
    typed: set[str] = set()
    text = metrics.render(snapshots)
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            typed.add(line.split()[2])
        elif not line.startswith("# HELP "):
            assert SAMPLE.fullmatch(line), line
            name, _, value = line.rpartition(" ")
            family = re.sub(r"_(bucket|sum|count)$", "", name.partition("{")[0])
            assert family in typed or name.partition("{")[0] in typed
            assert name not in found
            found[name.removeprefix("nixfetch_snapshotter_")] = float(value)
    return found


def test_nothing_has_happened(metrics: Metrics) -> None:
    found = samples(metrics)
    assert found['build_info{version="1"}'] == 1
    assert found["start_time_seconds"] == 1_700_000_000.5
    assert found["resident_memory_bytes"] > 1_000_000
    assert found['paths_total{result="fetched"}'] == 0


def test_calls_and_how_long_they_take(metrics: Metrics) -> None:
    for seconds in (0.0005, 0.001, 0.003, 500.0):
        metrics.called("Prepare", "OK", seconds)
    metrics.called("Prepare", "UNAVAILABLE", 0.003)
    metrics.called("Stat", "OK", 0.0001)
    found = samples(metrics, active=2, committed=3)
    assert found['calls_total{method="Prepare",status="OK"}'] == 4
    assert found['calls_total{method="Prepare",status="UNAVAILABLE"}'] == 1
    buckets = [
        found[f'call_seconds_bucket{{method="Prepare",le="{bound}"}}']
        for bound in (*BUCKETS, "+Inf")
    ]
    assert buckets == [2, 2, *[4] * (len(BUCKETS) - 2), 5]
    assert found['call_seconds_count{method="Prepare"}'] == 5
    assert found['call_seconds_sum{method="Prepare"}'] == pytest.approx(500.0075)
    assert found['snapshots{kind="active"}'] == 2


def test_what_was_fetched(metrics: Metrics) -> None:
    report = nixfetch.Report(store="/", requested=(), bytes_downloaded=10, bytes_unpacked=20)
    report.seconds = 1.5
    for name, status in (
        ("a", nixfetch.Status.FETCHED),
        ("b", nixfetch.Status.FETCHED),
        ("c", nixfetch.Status.PRESENT),
    ):
        path = store_path(name)
        report.paths[path] = nixfetch.PathReport(path=path, status=status)
    metrics.fetched(report)
    metrics.present(50)
    metrics.fetched(report, failed=True)
    metrics.fetch_failed()
    found = samples(metrics)
    assert found['paths_total{result="fetched"}'] == 4
    assert found['paths_total{result="present"}'] == 52
    assert found['bytes_total{what="downloaded"}'] == 20
    assert found['bytes_total{what="unpacked"}'] == 40
    assert found['fetches_total{result="done"}'] == 1
    assert found['fetches_total{result="failed"}'] == 2
    assert found["fetch_seconds_total"] == 3.0


def test_labels_are_escaped(metrics: Metrics) -> None:
    metrics.called('a"b\\c\nd', "OK", 0.0)
    assert samples(metrics)[r'calls_total{method="a\"b\\c\nd",status="OK"}'] == 1
