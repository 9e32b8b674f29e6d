"""`nixfetch warm` as cron runs it: over HTTP, two at a time, interrupted, with what may fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from servers import Answer, LoopbackServer, Request
from simulated_cache import KEY, SimulatedCache

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.conftest import Command
    from nixfetch.formats.storepath import StorePath

pytestmark = pytest.mark.e2e

QUICKLY = 1.5  # seconds for a run with nothing to do, of 1000 paths


class World:
    """A cache behind a server, and a manifest."""

    def __init__(self, server: LoopbackServer, directory: Path) -> None:
        self.server = server
        self.cache = SimulatedCache(priority=40, objects=server.objects)  # type: ignore[arg-type]
        self.manifest = directory / "nodes.toml"
        self.report = directory / "report.json"
        self.metrics = directory / "warm.prom"

    def arguments(self, *more: str | Path) -> list[str | Path]:
        return [
            *("warm", self.manifest, "--from", self.server.url, "--trusted-key"),
            *(str(KEY.public()), "--report", self.report, "--textfile", self.metrics, *more),
        ]

    def wants(self, *paths: StorePath) -> None:
        self.manifest.write_text(f"[[roots]]\npaths = {json.dumps(list(map(str, paths)))}\n")

    @property
    def last(self) -> Any:
        return json.loads(self.report.read_text())

    def metric(self, name: str) -> float:
        lines = self.metrics.read_text().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with LoopbackServer({}) as server:
        yield World(server, tmp_path)


def started(world: World, nixfetch: Command, *more: str) -> subprocess.Popen[str]:
    command = [*world.arguments(*more), "--store", nixfetch.store]
    return subprocess.Popen(
        [sys.executable, "-m", "nixfetch.cli", *command],
        env={"PATH": os.environ["PATH"], "HOME": str(nixfetch.home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_thousand_paths_with_nothing_to_do(world: World, nixfetch: Command) -> None:
    paths = [world.cache.add(f"path-{number}", b"%d" % number) for number in range(1000)]
    world.wants(*paths)
    assert nixfetch(*world.arguments("--no-fsync")).code == 0
    world.server.requests.clear()
    took = []
    for _ in range(3):
        begin = time.monotonic()
        ran = nixfetch(*world.arguments())
        took.append(time.monotonic() - begin)
        assert (ran.code, ran.out) == (0, "")
    assert world.server.requests == []
    assert min(took) < QUICKLY


def test_a_job_of_hydra(world: World, nixfetch: Command) -> None:
    path = world.cache.add("built")
    build = {"buildstatus": 0, "buildoutputs": {"out": {"path": str(path)}}}

    def answer(request: Request) -> Answer:
        if request.name.endswith("latest-finished"):
            return Answer(status=302, headers={"Location": "/build/5"})
        if "application/json" not in request.headers["accept"]:
            return Answer(b"<html>a page for people</html>")
        return Answer(json.dumps(build).encode())

    world.server.faults["job/p/j/x/latest-finished"] = answer
    world.server.faults["build/5"] = answer
    world.manifest.write_text(
        f'[[roots]]\nname = "job"\nhydra = "{world.server.url}/job/p/j/x/latest-finished"\n'
    )
    ran = nixfetch(*world.arguments())
    assert ran.code == 0, ran.err
    assert nixfetch.valid() == [str(path)]
    world.server.faults["build/5"] = Answer(status=500)
    ran = nixfetch(*world.arguments())
    assert ran.code == 5
    assert world.metric('nixfetch_warm_source_up{source="nodes:job"}') == 0
    assert f"warm:nodes:job -> {path}" in nixfetch("roots", "list").out


def test_two_at_a_time(world: World, nixfetch: Command) -> None:
    path = world.cache.add("slow", {b"f": os.urandom(3_000_000)})
    world.wants(path)
    with started(world, nixfetch, "--bandwidth", "2M") as first:
        until = time.monotonic() + 30
        while not world.server.asked(world.cache.nar_name(path)) and time.monotonic() < until:
            time.sleep(0.05)
        second = nixfetch(*world.arguments())
        assert second.code == 75
        assert "another run is at it" in second.err
        waited = nixfetch(*world.arguments("--wait"))
        assert (waited.code, waited.out) == (0, "")
        assert first.wait(30) == 0
        first.communicate()


def test_interrupted(world: World, nixfetch: Command) -> None:
    path = world.cache.add("slow", {b"f": os.urandom(20_000_000)})
    world.wants(path)
    with started(world, nixfetch, "--bandwidth", "4M") as process:
        until = time.monotonic() + 30
        while not world.server.asked(world.cache.nar_name(path)) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 143, errors
    assert world.last["stopped"] == "interrupted"
    nixfetch.is_empty()
    assert nixfetch(*world.arguments()).code == 0


def test_a_cache_that_is_down(world: World, nixfetch: Command) -> None:
    world.wants(world.cache.add("x"))
    assert nixfetch(*world.arguments()).code == 0
    good = world.metric("nixfetch_warm_last_success_timestamp_seconds")
    world.wants(world.cache.add("y"))
    world.server.faults["*"] = Answer(status=503)
    ran = nixfetch(*world.arguments())
    assert ran.code == 5
    assert world.last["exit_code"] == world.metric("nixfetch_warm_exit_code") == 5
    assert world.metric("nixfetch_warm_last_success_timestamp_seconds") == good > 0


def test_a_wrong_key(world: World, nixfetch: Command) -> None:
    path = world.cache.add("x")
    world.cache.publish(world.cache.infos[path], key=None)
    info = world.cache.infos[path]
    world.server.objects[f"{path.hash_part}.narinfo"] = info.render().replace(b"Sig: s", b"Sig: z")
    world.wants(path)
    ran = nixfetch(*world.arguments())
    assert ran.code == 4
    assert "signed by no trusted key" in world.last["paths"][0]["error"]
    assert world.metric("nixfetch_warm_exit_code") == 4


def test_a_timetable(world: World, nixfetch: Command) -> None:
    path = world.cache.add("slow", {b"f": os.urandom(3_000_000)})
    world.wants(path)
    begin = time.monotonic()
    ran = nixfetch(*world.arguments("--timetable", "00:00-24:00=1M"))
    assert ran.code == 0, ran.err
    assert time.monotonic() - begin > 2


def test_limits(world: World, nixfetch: Command) -> None:
    paths = [world.cache.add(f"p{number}", {b"f": os.urandom(10**6)}) for number in range(5)]
    world.wants(*paths)
    ran = nixfetch(*world.arguments("--max-duration", "2s", "--bandwidth", "1M"))
    assert ran.code == 3
    assert world.last["stopped"] == "max-duration"
    ran = nixfetch(*world.arguments("--max-bytes", "1M", "--bandwidth", "1M"))
    assert (ran.code, world.last["stopped"]) == (3, "max-bytes")
    assert nixfetch(*world.arguments()).code == 0
    assert nixfetch.valid() == sorted(map(str, paths))
