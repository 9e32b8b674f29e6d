from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from command import Raw, nixfetch
from mirror_walk import walk
from nixfetch.store import LocalStore
from nixfetch.warm import only_one
from simulated_cache import KEY, SimulatedCache, store_path

if TYPE_CHECKING:
    from pathlib import Path


class World:
    def __init__(self, directory: Path) -> None:
        self.cache = SimulatedCache()
        self.library = self.cache.add("library", {b"l": b"code" * 999}, compression="xz")
        self.tool = self.cache.add("tool", {b"t": b"more" * 999}, references=[self.library])
        self.directory = directory
        self.source, self.store = directory / "cache", directory / "store"
        self.cache.dump(self.source)
        self.manifest = directory / "nodes.list"
        self.manifest.write_text(f"{self.tool}\n")

    def __call__(self, *arguments: str | Path, stdin: bytes | None = None) -> Raw:
        return nixfetch(
            *("warm", *(arguments or [self.manifest]), "--store", self.store),
            *("--from", self.source.as_uri(), "--trusted-key", str(KEY.public())),
            stdin=stdin,
        )

    def roots(self) -> list[str]:
        ran = nixfetch("roots", "list", "--store", self.store)
        return ran.out.decode().splitlines()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_line_a_path(world: World) -> None:
    ran = world()
    assert ran.code == 0, ran.err
    lines = ran.out.decode().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("fetched /nix/store/") for line in lines)
    assert "2 fetched" in ran.err
    assert world.roots() == [f"warm:nodes:paths -> {world.tool}"]
    again = world()
    assert (again.code, again.out) == (0, b"")
    assert "0 fetched (0 B), 1 there already" in again.err
    world.manifest.write_text("")
    assert "1 kept no more" in world().err
    assert world.roots() == []
    assert not nixfetch("gc", "--store", world.store).code
    with LocalStore(world.store, read_only=True) as store:
        assert store.all_valid() == []


def test_standard_input(world: World) -> None:
    assert world("-", stdin=f"{world.library}\n".encode()).code == 0
    assert world.roots() == [f"warm:stdin:paths -> {world.library}"]


def test_report_and_metrics(world: World) -> None:
    report, metrics = world.directory / "report.json", world.directory / "warm.prom"
    ran = world(world.manifest, "--report", report, "--textfile", metrics, "--json", "-q")
    assert json.loads(ran.out) == json.loads(report.read_text())
    assert "nixfetch_warm_exit_code 0\n" in metrics.read_text()
    world.manifest.write_text(f"{store_path('lost')}\n")
    ran = world(world.manifest, "--report", report, "--textfile", metrics)
    assert ran.code == 3
    assert ran.out.decode().startswith(f"failed {store_path('lost')}: path is in no cache")
    assert json.loads(report.read_text())["exit_code"] == 3
    assert "nixfetch_warm_exit_code 3\n" in metrics.read_text()
    assert "last_success_timestamp_seconds 0\n" not in metrics.read_text()


def test_a_report_that_cannot_be_written(world: World) -> None:
    ran = world(world.manifest, "--report", world.directory / "nowhere/report")
    assert ran.code == 6


def test_a_disk_without_room(world: World) -> None:
    report = world.directory / "report.json"
    ran = world(world.manifest, "--min-free", "1000000T", "--report", report)
    assert ran.code == 6
    assert json.loads(report.read_text())["exit_code"] == 6
    assert len([line for line in ran.err.splitlines() if line.startswith("error:")]) == 1


def test_pods(world: World) -> None:
    pods = {
        "items": [
            {
                "spec": {
                    "containers": [
                        {"image": f"nix:0{world.tool}"},
                        {"image": f"nix:0{world.library}:latest"},
                        {"image": "nginx"},
                        {"image": "not!an!image"},
                        {"image": "nix:0/nix/store/nonsense"},
                    ]
                }
            }
        ]
    }
    (world.directory / "pods.json").write_text(json.dumps(pods))
    toml = world.directory / "cluster.toml"
    toml.write_text('[[roots]]\npods = "pods.json"\n')
    ran = world(toml)
    assert ran.code == 0, ran.err
    assert ran.err.count("passing over the image nix:0/nix/store/nonsense") == 1
    assert world.roots() == [
        f"warm:cluster:roots-1 -> {path}" for path in sorted([world.tool, world.library])
    ]


def test_a_list_and_a_cache(world: World) -> None:
    (world.directory / "list").write_text(f"{world.library}\n")
    toml = world.directory / "all.toml"
    toml.write_text(
        f'[[roots]]\nstore-paths = "{(world.directory / "list").as_uri()}"\n'
        f'[[roots]]\ncache = "{world.source.as_uri()}"\nmatch = ["*-tool"]\n'
    )
    assert world(toml).code == 0
    assert len(world.roots()) == 2


def test_a_source_that_does_not_answer(world: World) -> None:
    toml = world.directory / "bad.toml"
    toml.write_text('[[roots]]\npods = "nowhere.json"\n')
    ran = world(toml, world.manifest)
    assert ran.code == 5
    assert "error: cannot read" in ran.err
    assert "2 fetched" in ran.err


def test_into_a_mirror(world: World) -> None:
    mirror = world.directory / "mirror"
    lock = ("--lock", world.directory / "lock")
    ran = world(world.manifest, "--to", mirror.as_uri(), *lock)
    assert ran.code == 0, ran.err
    assert len(walk(mirror).paths) == 2
    assert not world.store.exists()
    assert world(world.manifest, "--to", "https://cache.example", *lock).code == 2


def test_only_one(world: World) -> None:
    lock = world.directory / "lock"
    with only_one(lock):
        ran = world(world.manifest, "--lock", lock)
    assert ran.code == 75
    assert "another run is at it" in ran.err
    assert world(world.manifest, "--lock", lock, "--wait").code == 0


def test_the_store_has_a_lock_of_its_own(world: World) -> None:
    world()
    with only_one(world.store / "nix/var/nixfetch/warm.lock"):
        assert world().code == 75
    assert nixfetch("verify", "--all", "--store", world.store, "--no-check-sigs").code == 0


def test_limits(world: World) -> None:
    ran = world(world.manifest, "--max-bytes", "1K", "--max-duration", "1h")
    assert ran.code in {0, 3}
    toml = world.directory / "limits.toml"
    toml.write_text(
        '[limits]\nmax-bytes = "1G"\nbandwidth = "100M"\n'
        '[[limits.timetable]]\ntimes = "00:00-24:00"\nbandwidth = "90M"\n'
        f'[[roots]]\npaths = ["{world.tool}"]\n'
    )
    assert world(toml, "--timetable", "08:00-09:00=50M").code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "required: MANIFEST"),
        (["m", "--max-bytes", "lots"], "not a size"),
        (["m", "--max-duration", "long"], "not a duration"),
        (["m", "--timetable", "08:00-09:00"], "not a size"),
        (["m", "--timetable", "8=1M"], "expected HH:MM-HH:MM"),
    ],
)
def test_usage(arguments: list[str], says: str) -> None:
    ran = nixfetch("warm", *arguments)
    assert ran.code == 2
    assert says in ran.err


def test_manifests_that_make_no_sense(world: World) -> None:
    world.manifest.write_text("[[rots]]")
    ran = world()
    assert ran.code == 78
    assert "unknown key in the manifest" in ran.err
    assert world(world.directory / "nowhere").code == 78
