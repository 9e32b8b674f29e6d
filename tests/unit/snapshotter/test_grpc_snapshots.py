"""The service over a real socket, as containerd calls it."""

from __future__ import annotations

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask

import nixfetch
from fake_closures import FakeClosures, store_path
from snapshotter import grpc_health, grpc_snapshots
from snapshotter._pb import health_pb2 as health
from snapshotter._pb import snapshots_pb2 as pb
from snapshotter.core import Snapshotter
from snapshotter.errors import UnavailableError
from snapshotter.labels import NIX_LAYER, NIX_STORE_PATH
from snapshotter.layers import Layers
from snapshotter.lifecycle import Kind
from snapshotter.metastore import Metastore
from snapshotter.overlay import Overlay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 30.0  # seconds; none of this takes one
NIX = {NIX_LAYER: "true", f"{NIX_STORE_PATH}0": str(store_path("one"))}


class Observer:
    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def called(self, method: str, status: str, seconds: float) -> None:
        assert seconds >= 0
        self.calls.append((method, status))


class World:
    """A server, and a client of it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.closures = FakeClosures(folder / "store")
        self.observer = Observer()
        self.serving = True
        rows = Metastore(folder / "db", durable=False)
        self.snapshotter = stack.enter_context(
            closing(
                Snapshotter(
                    store=rows,
                    layers=Layers(folder),
                    overlay=Overlay(("index=off",)),
                    closures=self.closures,
                )
            )
        )
        workers = stack.enter_context(ThreadPoolExecutor(4))
        server = grpc.server(workers)
        server.add_generic_rpc_handlers(
            (
                grpc_snapshots.handler(self.snapshotter, self.observer),
                grpc_health.handler({grpc_snapshots.SERVICE}, lambda: self.serving),
            )
        )
        server.add_insecure_port(f"unix:{folder}/s")
        server.start()
        stack.callback(lambda: server.stop(None).wait(PATIENCE))
        self.channel = stack.enter_context(grpc.insecure_channel(f"unix:{folder}/s"))

    def method(self, name: str, answer: Any, service: str = grpc_snapshots.SERVICE) -> Any:
        return self.channel.unary_unary(
            f"/{service}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )

    def call(self, name: str, request: Any, answer: Any) -> Any:
        return self.method(name, answer)(request, timeout=PATIENCE)

    def prepare(self, key: str, parent: str = "", **labels: str) -> Any:
        request = pb.PrepareSnapshotRequest(key=key, parent=parent, labels=labels)
        return self.call("Prepare", request, pb.PrepareSnapshotResponse)

    def stat(self, key: str) -> pb.Info:
        answer: pb.StatSnapshotResponse = self.call(
            "Stat", pb.StatSnapshotRequest(key=key), pb.StatSnapshotResponse
        )
        return answer.info

    def list(self, *filters: str) -> list[list[str]]:
        """Names, message by message."""
        stream = self.channel.unary_stream(
            f"/{grpc_snapshots.SERVICE}/List",
            request_serializer=pb.ListSnapshotsRequest.SerializeToString,
            response_deserializer=pb.ListSnapshotsResponse.FromString,
        )
        answers = stream(pb.ListSnapshotsRequest(filters=filters), timeout=PATIENCE)
        return [[info.name for info in answer.info] for answer in answers]


@pytest.fixture
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(dir="/tmp") as name, ExitStack() as stack:
        yield World(Path(name), stack)


def refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code(), error.details()


def test_a_whole_life(world: World) -> None:
    (mount,) = world.prepare("k", a="1").mounts
    assert (mount.type, mount.target, list(mount.options)) == ("bind", "", ["rw", "rbind"])
    info = world.stat("k")
    assert (info.name, info.parent, info.kind) == ("k", "", pb.ACTIVE)
    assert dict(info.labels) == {"a": "1"}
    assert info.created_at.ToNanoseconds() == info.updated_at.ToNanoseconds() > 0
    world.call("Commit", pb.CommitSnapshotRequest(name="n", key="k", labels={"b": "2"}), Empty)
    request = pb.UpdateSnapshotRequest(
        info=pb.Info(name="n", labels={"c": "3"}), update_mask=FieldMask(paths=["labels.c"])
    )
    after = world.call("Update", request, pb.UpdateSnapshotResponse).info
    assert dict(after.labels) == {"b": "2", "c": "3"}
    assert after.kind == pb.COMMITTED
    usage = world.call("Usage", pb.UsageRequest(key="n"), pb.UsageResponse)
    assert usage.inodes == 1
    of_n = pb.ViewSnapshotRequest(key="v", parent="n")
    (view,) = world.call("View", of_n, pb.ViewSnapshotResponse).mounts
    assert list(view.options) == ["ro", "rbind"]
    again = world.call("Mounts", pb.MountsRequest(key="v"), pb.MountsResponse)
    assert list(again.mounts) == [view]
    for key in ("v", "n"):
        world.call("Remove", pb.RemoveSnapshotRequest(key=key), Empty)
    world.call("Cleanup", pb.CleanupRequest(), Empty)
    assert world.list() == []
    assert {status for _, status in world.observer.calls} == {"OK"}
    assert len(world.observer.calls) == 11


def test_lists_come_in_batches_and_filtered(world: World) -> None:
    for number in range(grpc_snapshots.BATCH + 5):
        world.snapshotter.prepare(f"k{number:03}", "", {"n": str(number)})
    assert [len(batch) for batch in world.list()] == [grpc_snapshots.BATCH, 5]
    assert world.list("labels.n==7", 'name=="k003"') == [["k003", "k007"]]
    assert world.list("kind==view") == []
    code, text = refused(lambda: world.list("name<x"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "offset=4" in text


def test_errors_have_a_status_and_a_text(world: World) -> None:
    assert refused(lambda: world.stat("nobody")) == (
        grpc.StatusCode.NOT_FOUND,
        "snapshot does not exist (name=nobody)",
    )
    world.prepare("k")
    assert refused(lambda: world.prepare("k"))[0] is grpc.StatusCode.ALREADY_EXISTS
    assert refused(lambda: world.prepare("x", "k"))[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert ("Prepare", "ALREADY_EXISTS") in world.observer.calls


def test_a_bug_is_an_internal_error(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def bug(_: object) -> None:
        raise ZeroDivisionError("secret")

    world.closures.on_fetch = bug
    code, text = refused(lambda: world.prepare("k", **NIX))
    assert (code, text) == (grpc.StatusCode.INTERNAL, "unforeseen: ZeroDivisionError")
    assert "Prepare 'k': a bug" in caplog.text
    assert "ZeroDivisionError: secret" in caplog.text
    assert world.list() == []


def test_a_fetch_that_fails(world: World) -> None:
    def fail(_: object) -> None:
        raise UnavailableError("cache is down", cache="https://c", hint="wait")

    world.closures.on_fetch = fail
    assert refused(lambda: world.prepare("k", **NIX)) == (
        grpc.StatusCode.UNAVAILABLE,
        "cache is down (cache=https://c); hint: wait",
    )


def test_who_hangs_up_ends_the_fetch(world: World) -> None:
    fetching, ended = threading.Event(), threading.Event()

    def fetch(cancelled: Callable[[], bool]) -> None:
        fetching.set()
        try:
            while not cancelled():
                assert not ended.wait(0.01)
            raise nixfetch.CancelledError("nobody waits")
        finally:
            ended.set()

    world.closures.on_fetch = fetch
    request = pb.PrepareSnapshotRequest(key="k", labels=NIX)
    call = world.method("Prepare", pb.PrepareSnapshotResponse).future(request)
    assert fetching.wait(PATIENCE)
    call.cancel()
    assert ended.wait(PATIENCE)
    world.closures.on_fetch = lambda _: None
    # The next one with that key waits until the other has cleared up.
    assert len(world.prepare("k", **NIX).mounts) == 1


def test_health(world: World) -> None:
    check = world.method("Check", health.HealthCheckResponse, grpc_health.SERVICE)

    def status(service: str) -> int:
        answer = check(health.HealthCheckRequest(service=service), timeout=PATIENCE)
        return int(answer.status)

    for service in ("", grpc_snapshots.SERVICE):
        assert status(service) == health.HealthCheckResponse.SERVING
    assert refused(lambda: status("nothing"))[0] is grpc.StatusCode.NOT_FOUND
    world.serving = False
    assert status("") == health.HealthCheckResponse.NOT_SERVING


def test_kinds_on_the_wire(world: World) -> None:
    world.snapshotter.view("v", "", {})
    assert int(world.stat("v").kind) == Kind.VIEW
