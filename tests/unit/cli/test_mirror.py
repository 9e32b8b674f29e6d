from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from command import Raw, nixfetch
from mirror_walk import walk
from nixfetch.cli.mirror import summary
from nixfetch.formats.narinfo import NarInfo
from nixfetch.mirror import MirrorReport
from simulated_cache import KEY, OTHER_KEY, SimulatedCache, store_path

if TYPE_CHECKING:
    from pathlib import Path


class World:
    def __init__(self, directory: Path) -> None:
        self.cache = SimulatedCache()
        self.library = self.cache.add("library", {b"l": b"code" * 999}, compression="xz")
        self.tool = self.cache.add("tool", {b"t": b"more" * 999}, references=[self.library])
        self.other = self.cache.add("other")
        self.source, self.mirror = directory / "cache", directory / "mirror"
        self.cache.dump(self.source)

    def __call__(self, *arguments: str | Path) -> Raw:
        key = ("--trusted-key", str(KEY.public()))
        return nixfetch("mirror", *arguments, *key, "--from", self.source.as_uri())

    def copy(self, *arguments: str) -> Raw:
        return self(*(arguments or [str(self.tool)]), "--to", self.mirror.as_uri())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_copying(world: World) -> None:
    ran = world.copy()
    assert ran.code == 0
    assert set(ran.out.decode().split()) == {str(world.library), str(world.tool)}
    assert "copied 2 paths" in ran.err
    assert walk(world.mirror).paths == {world.library.base, world.tool.base}
    again = world.copy()
    assert (again.code, again.out) == (0, b"")
    assert "copied 0 paths (0 B sent), 2 there already" in again.err


def test_by_its_hash_part_alone(world: World) -> None:
    assert world.copy(world.tool.hash_part).code == 0
    assert len(walk(world.mirror).paths) == 2


def test_json(world: World) -> None:
    ran = world.copy(str(world.tool), "--json", "-q")
    report = json.loads(ran.out)
    assert report["mirror"] == world.mirror.as_uri()
    assert {entry["status"] for entry in report["paths"]} == {"copied"}
    assert ran.err == ""


def test_changed_on_the_way(world: World, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(OTHER_KEY.text())
    key.chmod(0o600)
    ran = world.copy(
        str(world.tool), "--recompress", "zstd", "--level", "3", "--sign", str(key), "--listing"
    )
    assert ran.code == 0, ran.err
    text = (world.mirror / f"{world.tool.hash_part}.narinfo").read_bytes()
    info = NarInfo.parse(text)
    assert info.compression == "zstd"
    assert len(info.signatures) == 2
    assert (world.mirror / f"{world.tool.hash_part}.ls").exists()


def test_a_dry_run(world: World) -> None:
    ran = world.copy(str(world.tool), "--dry-run")
    assert ran.code == 0
    assert len(ran.out.splitlines()) == 2
    assert "would copy 2 paths" in ran.err
    assert not world.mirror.exists()


def test_partly(world: World) -> None:
    ran = world.copy(str(world.tool), str(store_path("lost")), "--json")
    assert ran.code == 3
    assert len(json.loads(ran.out)["paths"]) == 3
    assert f"path is in no cache: {store_path('lost')}" in ran.err
    ran = world.copy(str(world.other), "0" * 32)
    assert ran.code == 3
    assert ran.out.decode().split() == [str(world.other)]
    assert world.copy("0" * 32).code == 3


def test_a_mirror_that_cannot_be_written(world: World) -> None:
    world.mirror.mkdir()
    (world.mirror / "nar").write_bytes(b"in the way")
    ran = world.copy(str(world.tool), "--json")
    assert ran.code == 6
    assert ran.err.count("error: cannot write to the mirror") == 1
    assert {entry["status"] for entry in json.loads(ran.out)["paths"]} == {"failed"}


def test_verifying(world: World) -> None:
    world.copy()
    verify = ("verify", world.mirror.as_uri())
    ran = world(*verify)
    assert (ran.code, ran.out) == (0, b"")
    assert "looked at 2 paths" in ran.err
    nar = world.mirror / world.cache.nar_name(world.tool)
    nar.write_bytes(b"x" + nar.read_bytes()[1:])
    assert world(*verify, "--sample", "0").code == 0
    ran = world(*verify)
    assert ran.code == 4
    assert ran.out.decode().startswith(f"{world.tool}: file has the wrong hash")
    ran = world(*verify, "--json", "--repair-from", world.source.as_uri())
    assert ran.code == 0
    assert json.loads(ran.out)["bad"][0]["repaired"]
    nar.unlink()
    ran = world(*verify, "--repair-from", world.source.as_uri())
    assert ran.out.decode().splitlines()[-1] == f"{world.tool}: repaired"
    nar.unlink()
    (world.source / world.cache.nar_name(world.tool)).unlink()
    ran = world(*verify, "--repair-from", world.source.as_uri())
    assert ran.code == 4
    assert "not repaired" in ran.out.decode()


def test_pruning(world: World, tmp_path: Path) -> None:
    world.copy(str(world.tool), str(world.other))
    kept = tmp_path / "kept"
    kept.write_text(f"{world.library}\n{world.other.base}\n")
    prune = ("prune", world.mirror.as_uri(), "--keep-roots", kept)
    ran = world(*prune, "--dry-run")
    assert ran.out.decode().split() == [str(world.tool)]
    assert "would remove 1 path and" in ran.err
    ran = world(*prune, "--json")
    assert json.loads(ran.out)["kept"] == 2
    assert walk(world.mirror).paths == {world.library.base, world.other.base}
    ran = world("prune", world.mirror.as_uri(), "--keep-roots", str(world.tool))
    assert ran.code == 4
    assert "mirror lacks a path that is to be kept" in ran.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "required: PATH"),
        (["x"], "say where the mirror is"),
        (["x", "--to", "https://cache.example"], "mirrors are buckets or directories"),
        (["x", "--to", "nonsense"], "not a kind of cache"),
        (["x", "--to", "/tmp/x", "--level", "3"], "--level goes with --recompress zstd"),
        (["x", "--to", "/tmp/x", "--recompress", "zstd", "--level", "99"], "is no level"),
        (["x", "--to", "/tmp/x", "--sample", "5"], "--sample is not for `nixfetch mirror`"),
        (["verify"], "say which mirror"),
        (["verify", "/tmp/x", "--to", "/tmp/y"], "--to is not for `nixfetch mirror verify`"),
        (["verify", "/tmp/x", "--sample", "500"], "is no percentage"),
        (["verify", "/tmp/x", "--sample", "x"], "is no percentage"),
        (["prune", "/tmp/x"], "say what to keep"),
        (["prune", "/tmp/x", "--keep-roots", "nonsense"], "neither a store path nor a file"),
    ],
)
def test_usage(arguments: list[str], says: str) -> None:
    ran = nixfetch("mirror", *arguments)
    assert ran.code == 2
    assert says in ran.err


def test_the_sum() -> None:
    report = MirrorReport(mirror="m", requested=(), stopped="max-bytes", seconds=1.0)
    assert summary(report) == "copied 0 paths (0 B sent), stopped: max-bytes, in 1.0 s"
