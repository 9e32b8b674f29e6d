from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from snapshotter import containerd
from snapshotter._pb.introspection_pb2 import Plugin, PluginsRequest, PluginsResponse
from snapshotter._pb.version_pb2 import VersionResponse
from snapshotter.containerd import Containerd, parse_version
from snapshotter.errors import PreconditionError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from google.protobuf.message import Message

VERSION = "/containerd.services.version.v1.Version/Version"
PLUGINS = "/containerd.services.introspection.v1.Introspection/Plugins"


class Service(grpc.GenericRpcHandler):  # type: ignore[type-arg,unused-ignore]
    """Calls that have one answer, by the name of the method."""

    def __init__(self, methods: dict[str, Callable[[bytes, Any], Message]]) -> None:
        self.methods = methods

    def service(self, details: Any) -> Any:
        behaviour = self.methods.get(details.method)
        return behaviour and grpc.unary_unary_rpc_method_handler(
            behaviour, response_serializer=lambda message: message.SerializeToString()
        )


@contextmanager
def serving(socket: Path, methods: dict[str, Callable[[bytes, Any], Message]]) -> Iterator[None]:
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((Service(methods),))
        server.add_insecure_port(f"unix:{socket}".replace("%", "%25"))
        server.start()
        try:
            yield
        finally:
            server.stop(0).wait()


def says(text: str) -> dict[str, Callable[[bytes, Any], Message]]:
    return {VERSION: lambda _request, _context: VersionResponse(version=text)}


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("1.6.20~ds1", (1, 6, 20)),
        ("2.1.9+unknown", (2, 1, 9)),
        ("v1.7.24", (1, 7, 24)),
        ("v2.0.0-rc.1", (2, 0, 0)),
        ("2.0", (2, 0, 0)),
        ("v2.0.2-k3s2", (2, 0, 2)),
        ("2.1.m", (2, 1, 0)),
    ],
)
def test_versions(text: str, version: tuple[int, int, int]) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "unknown", "2", "-1.2", "1.", "a1.2", "1.123456", "v"])
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(PreconditionError, match="no version that we can read"):
        parse_version(text)


def test_a_containerd_is_asked(tmp_path: Path) -> None:
    socket = tmp_path / "c.sock"
    with serving(socket, says("v2.1.9")):
        assert containerd.version(socket) == (2, 1, 9)


def test_the_name_of_its_socket_may_be_odd(tmp_path: Path) -> None:
    socket = tmp_path / "a b%20ü.sock"
    with serving(socket, says("v1.7.0")):
        assert containerd.version(str(socket)) == (1, 7, 0)


def test_nobody_is_there(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="does not answer") as caught:
        containerd.version(tmp_path / "c.sock")
    assert caught.value.facts["socket"] == str(tmp_path / "c.sock")
    assert caught.value.facts["status"] == "UNAVAILABLE"
    assert caught.value.hint


def test_somebody_else_is_there(tmp_path: Path) -> None:
    socket = tmp_path / "c.sock"
    with serving(socket, {}), pytest.raises(UnavailableError) as caught:
        containerd.version(socket)
    assert caught.value.facts["status"] == "UNIMPLEMENTED"


def test_it_takes_too_long(tmp_path: Path) -> None:
    socket, over = tmp_path / "c.sock", threading.Event()

    def slowly(_request: bytes, _context: Any) -> Message:
        over.wait(30)
        return VersionResponse(version="2.1.9")

    with serving(socket, {VERSION: slowly}):
        begun = time.monotonic()
        with pytest.raises(UnavailableError) as caught:
            containerd.version(socket, timeout=0.1)
        over.set()
    assert caught.value.facts["status"] == "DEADLINE_EXCEEDED"
    assert time.monotonic() - begun < 20


def test_what_it_says_is_no_version(tmp_path: Path) -> None:
    socket = tmp_path / "c.sock"
    with serving(socket, says("dev")), pytest.raises(PreconditionError):
        containerd.version(socket)


def test_its_plugins(tmp_path: Path) -> None:
    asked: list[PluginsRequest] = []

    def plugins(request: bytes, _context: Any) -> Message:
        asked.append(PluginsRequest.FromString(request))
        broken = Plugin.Failure(message="no such socket")
        return PluginsResponse(
            plugins=[Plugin(type="t", id="nix", init_err=broken), Plugin(type="t", id="a")]
        )

    socket = tmp_path / "c.sock"
    with serving(socket, {PLUGINS: plugins}), Containerd(socket) as client:
        found = client.plugins("t")
    assert [(plugin.name, plugin.problem) for plugin in found] == [
        ("a", None),
        ("nix", "no such socket"),
    ]
    assert list(asked[0].filters) == ["type==t"]


def test_what_goes_along_with_a_call(tmp_path: Path) -> None:
    seen: dict[str, str] = {}

    def answer(_request: bytes, context: Any) -> Message:
        seen.update(context.invocation_metadata())
        return Empty()

    socket = tmp_path / "c.sock"
    with serving(socket, {"/a.B/C": answer}), Containerd(socket) as client:
        client.call("/a.B/C", Empty(), Empty, metadata=[("containerd-namespace", "k8s.io")])
    assert seen["containerd-namespace"] == "k8s.io"
