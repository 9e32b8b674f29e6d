from __future__ import annotations

import json
import lzma
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from nixfetch.errors import TransportError
from nixfetch.mirror import open_mirror
from nixfetch.streams.limits import TooLargeError
from nixfetch.warm.manifest import MAX_SIZE, SourceSpec
from nixfetch.warm.sources import Resolver, SourceError
from simulated_cache import Refused, SimulatedCache, store_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

A, B, C = map(store_path, "abc")


class World:
    def __init__(self, directory: Path) -> None:
        self.remote = SimulatedCache()
        self.asked: list[str] = []
        self.directory = directory

    def transport(self, url: str, accept: str) -> SimulatedCache:
        self.asked.append(url)
        self.accepted = accept
        return self.remote

    def images(self, image: str) -> tuple[str, ...]:
        return (image.removeprefix("nix:0"),) if image.startswith("nix:0/") else ()

    @property
    def resolver(self) -> Resolver:
        return Resolver(
            transport=self.transport,
            mirror=open_mirror,
            images=self.images,
            persist=once,
            directory=self.directory,
        )

    def paths(self, kind: str, where: str, **more: Any) -> list[str]:
        spec = SourceSpec(name="x", kind=kind, where=where, **more)
        return [path.base.partition("-")[2] for path in self.resolver.paths(spec)]


def once(act: Callable[[], T]) -> T:
    return act()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_paths(world: World) -> None:
    spec = SourceSpec(name="x", kind="paths", paths=(A, B, C), match=("*-[ab]",))
    assert world.resolver.paths(spec) == [A, B]


def test_the_list_of_a_channel(world: World) -> None:
    text = f"{A}\n{B}\n{A}\n".encode()
    world.remote.objects["store-paths.xz"] = lzma.compress(text)
    assert world.paths("store-paths", "https://channel.example/nixos/store-paths.xz") == ["a", "b"]
    assert world.asked == ["https://channel.example/nixos"]
    assert world.remote.closed
    (world.directory / "list").write_bytes(text)
    assert world.paths("store-paths", "list") == ["a", "b"]


@pytest.mark.parametrize("text", [b"nonsense\n", b"\xff"])
def test_no_list(world: World, text: bytes) -> None:
    (world.directory / "list").write_bytes(text)
    with pytest.raises(SourceError) as caught:
        world.paths("store-paths", "list")
    assert caught.value.facts["source"] == "x"


def test_files_that_are_not_there(world: World) -> None:
    with pytest.raises(SourceError, match="cannot read"):
        world.paths("pods", "pods.json")


def test_lists_without_end(world: World) -> None:
    world.remote.objects["list.xz"] = lzma.compress(bytes(MAX_SIZE + 1), preset=0)
    with pytest.raises(TooLargeError):
        world.paths("store-paths", "https://x/list.xz")


def test_remotes_that_do_not_answer(world: World) -> None:
    world.remote.fault = Refused(times=9)
    with pytest.raises(TransportError) as caught:
        world.paths("hydra", "https://hydra.example/job/latest-finished")
    assert caught.value.facts["source"] == "x"


def build(**more: object) -> bytes:
    outputs = {"out": {"path": str(A)}, "doc": {"path": str(B)}}
    return json.dumps({"buildoutputs": outputs, "buildstatus": 0, **more}).encode()


def test_a_build_of_hydra(world: World) -> None:
    where = "https://hydra.example/job/p/j/x/latest-finished"
    world.remote.objects["latest-finished"] = build()
    assert world.paths("hydra", where) == ["b", "a"]
    assert world.accepted == "application/json"
    assert world.paths("hydra", where, outputs=("out",)) == ["a"]
    with pytest.raises(SourceError, match="no such output"):
        world.paths("hydra", where, outputs=("bin",))
    world.remote.objects["latest-finished"] = build(buildstatus=1)
    with pytest.raises(SourceError, match="build failed"):
        world.paths("hydra", where)
    for bad in (b"<html>", b"[]", b"{}", build(buildoutputs={"out": 5})):
        world.remote.objects["latest-finished"] = bad
        with pytest.raises(SourceError):
            world.paths("hydra", where)


def test_pods(world: World) -> None:
    def pod(*images: str, **more: object) -> dict[str, Any]:
        return {"spec": {"containers": [{"image": image} for image in images], **more}}

    pods = [
        pod(f"nix:0{A}", "docker.io/library/nginx:1"),
        pod(f"nix:0{A}", initContainers=[{"image": f"nix:0{B}"}]),
        {"spec": {"containers": None}},
        {"spec": {"containers": [None, {"image": None}]}},
        {},
    ]
    file = world.directory / "pods.json"
    file.write_text(json.dumps({"kind": "List", "items": pods}))
    assert world.paths("pods", "pods.json") == ["a", "b"]
    file.write_text(json.dumps(pods[0]))
    assert world.paths("pods", "pods.json") == ["a"]
    file.write_text("no JSON")
    with pytest.raises(SourceError, match="expected JSON"):
        world.paths("pods", "pods.json")


def test_another_cache(world: World) -> None:
    cache = SimulatedCache()
    cache.add("one")
    cache.add("two")
    cache.dump(world.directory / "cache")
    url = (world.directory / "cache").as_uri()
    assert sorted(world.paths("cache", url)) == ["one", "two"]
    assert world.paths("cache", url, match=("*-two",)) == ["two"]
