from __future__ import annotations

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nixfetch
from fake_containerd import Fake, eventually, fake_containerd
from nixfetch.errors import StoreError
from simulated_cache import store_path
from snapshotter._pb import cri_pb2, images_pb2
from snapshotter.cri.connection import Connection
from snapshotter.cri.service import MAX_PULLS, _of_the_store, handler
from snapshotter.errors import InvalidArgumentError
from snapshotter.imageref import NixReference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SERVICE = "/runtime.v1.ImageService"
REFERENCE = NixReference(store_path("app"))


@dataclass(slots=True)
class FakePulls:
    """Notes what it is asked."""

    pulled: list[NixReference] = field(default_factory=list)
    swept: int = 0
    fails: nixfetch.NixfetchError | Exception | None = None
    gate: threading.Event | None = None
    gave_up: int = 0

    def pull(self, reference: NixReference, *, cancelled: Callable[[], bool]) -> str:
        self.pulled.append(reference)
        if self.gate is not None:
            while not self.gate.wait(0.01):
                if cancelled():
                    self.gave_up += 1
                    raise nixfetch.CancelledError("caller has given up")
        if self.fails is not None:
            raise self.fails
        return "sha256:id"

    def try_sweep(self) -> None:
        self.swept += 1


class Observer:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def called(self, method: str, status: str, seconds: float) -> None:
        assert seconds >= 0
        self.seen.append((method, status))


@dataclass(slots=True)
class Served:
    """The service, its containerd, and somebody who calls it."""

    fake: Fake
    pulls: FakePulls
    observer: Observer
    channel: grpc.Channel
    root: Path

    def call(self, method: str, request: bytes = b"", **options: Any) -> bytes:
        ask = self.channel.unary_unary(f"{SERVICE}/{method}", _same, _same)
        return bytes(ask(request, **{"timeout": 30.0, **options}))

    def pull(self, image: str, **options: Any) -> str:
        request = cri_pb2.PullImageRequest(image=cri_pb2.ImageSpec(image=image))
        answer = self.call("PullImage", request.SerializeToString(), **options)
        return cri_pb2.PullImageResponse.FromString(answer).image_ref


def _same(data: bytes) -> bytes:
    return data


@pytest.fixture
def served() -> Iterator[Served]:
    with fake_containerd() as fake, serving(fake) as found:
        yield found


@contextmanager
def serving(fake: Fake) -> Iterator[Served]:
    with (
        tempfile.TemporaryDirectory(prefix="nf-", dir="/tmp") as folder,
        Connection(fake.socket) as connection,
        ThreadPoolExecutor(MAX_PULLS + 8) as workers,
    ):
        pulls, observer, address = FakePulls(), Observer(), f"unix:{folder}/s.sock"
        server = grpc.server(workers)
        service: Any = handler(connection, pulls, observer, root=Path(folder))  # type: ignore[arg-type]
        server.add_generic_rpc_handlers((service,))
        server.add_insecure_port(address)
        server.start()
        try:
            with grpc.insecure_channel(address) as channel:
                yield Served(fake, pulls, observer, channel, Path(folder))
        finally:
            server.stop(0).wait()


def test_images_of_the_store_are_ours(served: Served) -> None:
    for text in (str(REFERENCE), REFERENCE.repository):
        assert served.pull(text) == "sha256:id"
    assert served.pulls.pulled == [REFERENCE, REFERENCE]
    assert served.fake.calls == []
    assert served.observer.seen == [("PullImage", "OK")] * 2


@pytest.mark.parametrize(
    "image", ["example.test/app:v1", "nix", "nix:0", "nix.example/app", "nix:00/a", "", "NIX:0/x"]
)
def test_images_of_others_are_passed_on(image: str, served: Served) -> None:
    served.fake.raw["PullImage"] = (b"", b"\x0a\x03abc")
    assert served.pull(image) == "abc"
    assert served.pulls.pulled == []


def test_what_is_passed_on_is_not_touched(served: Served) -> None:
    """Bytes that nobody here understands, in methods that nobody here knows."""
    request, answer = b"\xfa\x3f\x03abc\x08\x01", b"\xfa\x3f\x02yz"
    for method in ("ListImages", "NewInTheYear2031"):
        served.fake.raw[method] = (b"", answer)
        assert served.call(method, request) == answer
        assert served.fake.raw[method][0] == request
    assert served.observer.seen == [("ListImages", "OK"), ("other", "OK")]


def test_streams_are_passed_on(served: Served) -> None:
    ask = served.channel.unary_stream(f"{SERVICE}/StreamImages", _same, _same)
    assert list(ask(b"each", timeout=30.0)) == [b"each", b"each"]


def test_streams_that_fail(served: Served) -> None:
    served.fake.faults["ImageService/StreamImages"] = grpc.StatusCode.DATA_LOSS
    ask = served.channel.unary_stream(f"{SERVICE}/StreamImages", _same, _same)
    with pytest.raises(grpc.RpcError, match="as it was told") as caught:
        list(ask(b"each", timeout=30.0))
    assert caught.value.code() is grpc.StatusCode.DATA_LOSS


def test_metadata_and_patience_are_passed_on(served: Served) -> None:
    served.call("ListImages", metadata=(("traceparent", "00-1"), ("x-bin", b"\0\1")))
    seen: dict[str, Any] = dict(served.fake.metadata[0])
    assert (seen["traceparent"], seen["x-bin"]) == ("00-1", b"\0\1")
    # Whoever gave up here has given up there too.
    going = threading.Event()

    def stall() -> None:
        assert going.wait(30.0)

    served.fake.faults["ImageService/ListImages"] = stall
    try:
        with pytest.raises(grpc.RpcError) as caught:
            served.call("ListImages", timeout=0.2)
    finally:
        going.set()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: len(served.observer.seen) == 2)
    assert served.observer.seen[1][1] in {"CANCELLED", "DEADLINE_EXCEEDED"}


def test_errors_of_containerd_are_passed_on(served: Served) -> None:
    served.fake.faults["ImageService/ImageStatus"] = grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.RpcError, match="as it was told") as caught:
        served.call("ImageStatus")
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    details: Any = caught.value.trailing_metadata()
    assert dict(details)["grpc-status-details-bin"] == b"more of it"
    assert served.observer.seen == [("ImageStatus", "RESOURCE_EXHAUSTED")]


def test_what_is_removed_is_swept_up(served: Served) -> None:
    served.fake.images["a"] = images_pb2.Image(name="a")
    request = cri_pb2.PullImageRequest(image=cri_pb2.ImageSpec(image="a"))
    assert served.call("RemoveImage", request.SerializeToString()) == b""
    assert served.fake.images == {}
    assert served.pulls.swept == 1


def test_what_is_not_removed_is_not_swept_up(served: Served) -> None:
    served.fake.faults["ImageService/RemoveImage"] = grpc.StatusCode.INTERNAL
    with pytest.raises(grpc.RpcError):
        served.call("RemoveImage")
    assert served.pulls.swept == 0


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (StoreError("disk on fire", store="/s"), "INTERNAL", r"disk on fire \(store=/s\)"),
        (nixfetch.CancelledError("caller has given up"), "CANCELLED", "given up"),
        (ZeroDivisionError(), "INTERNAL", "unforeseen: ZeroDivisionError"),
    ],
)
def test_pulls_that_fail(error: Exception, status: str, text: str, served: Served) -> None:
    served.pulls.fails = error
    with pytest.raises(grpc.RpcError, match=text) as caught:
        served.pull(str(REFERENCE))
    assert caught.value.code().name == status
    assert served.observer.seen == [("PullImage", status)]


@pytest.mark.parametrize("image", ["nix:0/", "nix:0/etc", f"{REFERENCE.repository}:v1"])
def test_references_that_are_none(image: str, served: Served) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        served.pull(image)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert served.pulls.pulled == []


def test_messages_that_are_none(served: Served) -> None:
    with pytest.raises(grpc.RpcError, match="message cannot be read") as caught:
        served.call("PullImage", b"\xff\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_whoever_pulls_gives_up(served: Served) -> None:
    served.pulls.gate = threading.Event()
    with pytest.raises(grpc.RpcError):
        served.pull(str(REFERENCE), timeout=0.1)
    eventually(lambda: served.pulls.gave_up == 1)


def test_so_many_pulls_at_a_time(served: Served) -> None:
    """The rest of the threads are for the calls that containerd makes meanwhile."""
    served.pulls.gate = threading.Event()
    with ThreadPoolExecutor(MAX_PULLS) as threads:
        waiting = [threads.submit(served.pull, str(REFERENCE)) for _ in range(MAX_PULLS)]
        eventually(lambda: len(served.pulls.pulled) == MAX_PULLS)
        for image in (str(REFERENCE), "example.test/app:v1"):
            with pytest.raises(grpc.RpcError, match="too many images") as caught:
                served.pull(image)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        served.call("ListImages")
        served.pulls.gate.set()
        assert {each.result() for each in waiting} == {"sha256:id"}
    assert served.pull(str(REFERENCE)) == "sha256:id"


def test_directories_that_are_not_there(served: Served, tmp_path: Path) -> None:
    answer = cri_pb2.ImageFsInfoResponse()
    for place in (tmp_path, tmp_path / "missing"):
        usage = answer.image_filesystems.add(timestamp=7)
        usage.fs_id.mountpoint = str(place)
    answer.container_filesystems.add().fs_id.mountpoint = str(tmp_path / "missing")
    unknown = b"\xfa\x3f\x02yz"
    served.fake.raw["ImageFsInfo"] = (b"", answer.SerializeToString() + unknown)
    found = served.call("ImageFsInfo")
    assert unknown in found
    parsed = cri_pb2.ImageFsInfoResponse.FromString(found)
    places = [usage.fs_id.mountpoint for usage in parsed.image_filesystems]
    assert places == [str(tmp_path), str(served.root)]
    assert parsed.image_filesystems[0].timestamp == 7
    assert parsed.container_filesystems[0].fs_id.mountpoint == str(served.root)


def test_other_services_are_not_ours(served: Served) -> None:
    ask = served.channel.unary_unary("/runtime.v1.RuntimeService/Version", _same, _same)
    with pytest.raises(grpc.RpcError) as caught:
        ask(b"", timeout=30.0)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_no_containerd() -> None:
    with fake_containerd() as fake:
        pass
    with serving(fake) as served:
        for method in ("ListImages", "ImageFsInfo", "RemoveImage"):
            with pytest.raises(grpc.RpcError) as caught:
                served.call(method)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@given(st.binary(max_size=200) | st.text(max_size=60).map(lambda text: _spec(f"nix:0/{text}")))
def test_any_bytes_are_a_request_or_refused(request_bytes: bytes) -> None:
    try:
        found = _of_the_store(request_bytes)
    except InvalidArgumentError:
        return
    assert found is None or str(found.path).startswith("/nix/store/")


def _spec(image: str) -> bytes:
    return cri_pb2.PullImageRequest(image=cri_pb2.ImageSpec(image=image)).SerializeToString()
