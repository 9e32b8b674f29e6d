"""The daemon as a process: sockets, signals, systemd, crashes. No containerd, no mounts."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from images import NIX_COMPLETE, NIX_LAYER, NIX_STORE_PATH
from servers import LoopbackServer
from simulated_cache import KEY, SimulatedCache
from snapshotter._pb import snapshots_pb2 as pb
from snapshotter.lifecycle import REF
from snapshotter.oci import nixlayer
from snapshotter_daemon import COMMAND, Daemon, daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nixfetch.formats.storepath import StorePath

pytestmark = pytest.mark.e2e

PATIENCE = 60.0  # seconds; all of it takes less than two on a quiet machine
GRACE = 10.0  # seconds in which a daemon has to end
SERVICE = "containerd.services.snapshots.v1.Snapshots"
ANSWERS: dict[str, Any] = {
    "Prepare": pb.PrepareSnapshotResponse,
    "View": pb.ViewSnapshotResponse,
    "Mounts": pb.MountsResponse,
    "Stat": pb.StatSnapshotResponse,
    "Commit": Empty,
    "Remove": Empty,
    "Cleanup": Empty,
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: the path of a socket has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="nfd-", dir="/tmp") as name:
        yield Path(name)


class Client:
    def __init__(self, address: Path) -> None:
        options = [("grpc.default_authority", "localhost"), ("grpc.enable_http_proxy", 0)]
        limit = 16 * 1024 * 1024
        options += [("grpc.max_receive_message_length", limit)]
        options += [("grpc.max_send_message_length", limit)]
        self.channel = grpc.insecure_channel(f"unix:{address}", options=options)

    def method(self, name: str) -> Any:
        return self.channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=ANSWERS[name].FromString,
        )

    def call(self, name: str, request: Any) -> Any:
        return self.method(name)(request, timeout=PATIENCE)

    def prepare(self, key: str, parent: str = "", labels: dict[str, str] | None = None) -> Any:
        request = pb.PrepareSnapshotRequest(key=key, parent=parent, labels=labels or {})
        return self.call("Prepare", request)

    def commit(self, name: str, key: str, labels: dict[str, str] | None = None) -> None:
        self.call("Commit", pb.CommitSnapshotRequest(name=name, key=key, labels=labels or {}))

    def remove(self, key: str) -> None:
        self.call("Remove", pb.RemoveSnapshotRequest(key=key))

    def names(self) -> list[str]:
        stream = self.channel.unary_stream(
            f"/{SERVICE}/List",
            request_serializer=pb.ListSnapshotsRequest.SerializeToString,
            response_deserializer=pb.ListSnapshotsResponse.FromString,
        )
        answers = stream(pb.ListSnapshotsRequest(), timeout=PATIENCE)
        return [info.name for answer in answers for info in answer.info]


@contextmanager
def client(address: Path) -> Iterator[Client]:
    found = Client(address)
    with found.channel:
        yield found


def refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code(), error.details()


def nix_labels(*paths: StorePath, complete: bool = False) -> dict[str, str]:
    labels = {f"{NIX_STORE_PATH}{number}": str(path) for number, path in enumerate(paths)}
    labels |= {NIX_LAYER: "true", REF: nixlayer.diff_id(dict.fromkeys(paths, False))}
    return labels | ({NIX_COMPLETE: "true"} if complete else {})


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env={"PATH": os.environ["PATH"], "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def removed(nix: Daemon) -> list[Path]:
    return list((nix.root / "removed").iterdir())


# Sockets and roots.


def test_nobody_else_reaches_it(folder: Path) -> None:
    with daemon(folder) as nix:
        assert stat.S_IMODE(nix.address.stat().st_mode) == 0o600
        assert stat.S_IMODE(nix.root.stat().st_mode) == 0o700
    assert not nix.address.exists()


def test_two_never_share_a_root_or_a_socket(folder: Path) -> None:
    with daemon(folder) as nix:
        flags = ("--address", folder / "other.sock", "--store", nix.store)
        second = run("serve", "--root", nix.root, *flags)
        assert second.returncode == 75, second
        assert "another daemon has that root" in second.stderr
        flags = ("--address", nix.address, "--store", nix.store)
        third = run("serve", "--root", folder / "other", *flags)
        assert third.returncode == 6, third
        assert "another daemon listens there" in third.stderr
        with client(nix.address) as caller:
            assert caller.names() == []


def test_a_left_over_socket_is_no_obstacle(folder: Path) -> None:
    with daemon(folder) as nix:
        nix.crash()
        assert nix.address.exists()
        nix.up()


def test_a_socket_that_systemd_made(folder: Path) -> None:
    nix = Daemon(folder)
    with socket.socket(socket.AF_UNIX) as outer, client(nix.address) as caller:
        outer.bind(str(nix.address))
        outer.listen()
        early = caller.method("Prepare").future(
            pb.PrepareSnapshotRequest(key="early"), timeout=PATIENCE, wait_for_ready=True
        )
        for _ in range(2):
            with activated(nix, outer) as process:
                assert len(early.result().mounts) == 1
                assert caller.names() == ["early"]
                process.send_signal(signal.SIGTERM)
                assert process.wait(GRACE) == 0
            assert nix.address.exists()  # systemd's, and who comes now waits for the next
            assert sorted(entry.name for entry in nix.root.iterdir() if entry.is_socket()) == []


@contextmanager
def activated(nix: Daemon, outer: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    """The daemon, started as systemd does for a socket."""
    places = {"--root": nix.root, "--address": nix.address, "--store": nix.store}
    script = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid());"
        "os.environ['LISTEN_FDS'] = '1'; os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    )
    flags = [word for flag, place in places.items() for word in (flag, str(place))]
    command = [sys.executable, "-c", script, str(outer.fileno()), *COMMAND[1:], "serve", *flags]
    with (
        (nix.folder / "log").open("ab") as log,
        subprocess.Popen(command, pass_fds=[outer.fileno()], stdout=log, stderr=log) as process,
    ):
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()


def test_systemd_hears_of_its_beginning_and_its_end(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(folder / "notify"))
        systemd.settimeout(PATIENCE)
        nix = Daemon(folder, environ={"NOTIFY_SOCKET": str(folder / "notify")})
        nix.up()
        try:
            assert systemd.recv(100) == b"READY=1"
        finally:
            nix.down()
        assert systemd.recv(100) == b"STOPPING=1"


# Signals and crashes.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_when_nothing_is_under_way(folder: Path, number: signal.Signals) -> None:
    with daemon(folder) as nix, client(nix.address) as caller:
        caller.prepare("k")
        process = nix.pid
        os.kill(process, number)
        assert nix._process is not None
        assert nix._process.wait(GRACE) == 0
        nix._process = None
    assert "Traceback" not in nix.log


@contextmanager
def stalling() -> Iterator[tuple[str, threading.Event]]:
    """A cache that takes requests and answers none; its URL, and whether it was asked."""
    asked, over = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            with suppress(OSError):
                while not over.is_set():
                    held.append(server.accept()[0])
                    asked.set()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
        finally:
            over.set()
            with suppress(OSError), socket.create_connection(server.getsockname()):
                pass
            thread.join(PATIENCE)
            for connection in held:
                connection.close()


def test_it_ends_in_ten_seconds_in_the_middle_of_a_fetch(folder: Path) -> None:
    path = SimulatedCache().add("never", b"x")
    with stalling() as (url, asked), daemon(folder, caches=[url]) as nix:
        with client(nix.address) as caller:
            request = pb.PrepareSnapshotRequest(key="k", labels=nix_labels(path))
            call = caller.method("Prepare").future(request)
            assert asked.wait(PATIENCE)
            begun = time.monotonic()
            nix.down()
            assert time.monotonic() - begun < GRACE
            assert call.exception() is not None
        nix.up()
        with client(nix.address) as caller:
            assert caller.names() == []
        assert list((nix.root / "snapshots").iterdir()) == []


def test_who_hangs_up_leaves_nothing(folder: Path) -> None:
    path = SimulatedCache().add("never", b"x")
    with (
        stalling() as (url, asked),
        daemon(folder, caches=[url]) as nix,
        client(nix.address) as caller,
    ):
        request = pb.PrepareSnapshotRequest(key="k", labels=nix_labels(path))
        call = caller.method("Prepare").future(request)
        assert asked.wait(PATIENCE)
        assert (nix.root / "snapshots/1").exists()
        call.cancel()
        until(lambda: not (nix.root / "snapshots/1").exists(), "its directory stays")
        until(lambda: not removed(nix), "its directory is not deleted")
        caller.prepare("k")
        assert caller.names() == ["k"]


def test_a_kill_in_the_middle_of_a_fetch_leaves_nothing(folder: Path) -> None:
    path = SimulatedCache().add("never", b"x")
    with stalling() as (url, asked), daemon(folder, caches=[url]) as nix:
        with client(nix.address) as caller:
            caller.prepare("before")
            request = pb.PrepareSnapshotRequest(key="k", labels=nix_labels(path))
            call = caller.method("Prepare").future(request)
            assert asked.wait(PATIENCE)
            nix.crash()
            assert call.exception() is not None
        nix.up()
        with client(nix.address) as caller:
            assert caller.names() == ["before"]
            caller.prepare("k")
        assert len(list((nix.root / "snapshots").iterdir())) == 2
        until(lambda: not removed(nix), "what was cut off is not deleted")


# Layers.


def test_a_layer_from_a_cold_store_and_its_life(folder: Path) -> None:
    cache = SimulatedCache()
    words = cache.add("words.txt", b"words")
    app = cache.add("app", {b"file": b"x"}, references=[words])
    with (
        LoopbackServer(cache.objects) as server,
        daemon(folder, caches=[server.url], keys=[str(KEY.public())]) as nix,
        client(nix.address) as caller,
    ):
        labels = nix_labels(app, complete=True)
        code, _ = refused(lambda: caller.prepare("extract-1-a sha256:feed", "", labels))
        assert code is grpc.StatusCode.ALREADY_EXISTS
        (layer,) = caller.names()
        # The containerd of this test does not answer, so that it may be an old one.
        (mount,) = caller.prepare("container", layer).mounts
        lowers = next(word for word in mount.options if word.startswith("lowerdir="))
        farm = Path(lowers.removeprefix("lowerdir=").split(":")[0])
        names = sorted(entry.name for entry in (farm / "nix/store").iterdir())
        assert names == sorted([app.base, words.base])
        nix.crash()
        nix.up()
        assert list(caller.call("Mounts", pb.MountsRequest(key="container")).mounts) == [mount]
        roots = nix.store / "nix/var/nix/gcroots/nixfetch"
        assert len(list(roots.iterdir())) == 1
        caller.remove("container")
        caller.remove(layer)
        assert list(roots.iterdir()) == []
        caller.call("Cleanup", pb.CleanupRequest())
        assert removed(nix) == []
        assert not farm.exists()


def test_a_layer_that_nobody_vouches_for(folder: Path) -> None:
    cache = SimulatedCache()
    app = cache.add("app", {b"file": b"x"})
    with (
        LoopbackServer(cache.objects) as server,
        daemon(folder, caches=[server.url]) as nix,
        client(nix.address) as caller,
    ):
        code, text = refused(lambda: caller.prepare("k", "", nix_labels(app)))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        for part in (str(app), server.url, str(KEY.public()).partition(":")[0]):
            assert part in text
        assert caller.names() == []
        assert list((nix.store / "nix/var/nix/gcroots/nixfetch").glob("*")) == []
        assert "warning: Prepare 'k': FAILED_PRECONDITION: " in nix.log


def test_large_messages(folder: Path) -> None:
    labels = {f"containerd.io/snapshot/label-{number}": "x" * 500 for number in range(20_000)}
    with daemon(folder) as nix, client(nix.address) as caller:
        caller.prepare("k", "", labels)
        info = caller.call("Stat", pb.StatSnapshotRequest(key="k")).info
        assert dict(info.labels) == labels
        labels = {str(number): "x" for number in range(32_769)}
        assert refused(lambda: caller.prepare("l", "", labels))[0] is (
            grpc.StatusCode.INVALID_ARGUMENT
        )


def test_removal_frees_space_by_itself(folder: Path) -> None:
    with daemon(folder) as nix, client(nix.address) as caller:
        caller.prepare("k")
        (nix.root / "snapshots/1/fs/file").write_text("x")
        caller.remove("k")
        until(lambda: not removed(nix), "it is not deleted")


# What is seen of it.


def test_metrics(folder: Path) -> None:
    with (
        daemon(folder, settings=f'metrics-address = "unix:{folder}/m.sock"') as nix,
        client(nix.address) as caller,
    ):
        caller.prepare("k")
        text = fetched(folder / "m.sock", "/metrics")
        assert 'nixfetch_snapshotter_calls_total{method="Prepare",status="OK"} 1\n' in text
        assert 'nixfetch_snapshotter_snapshots{kind="active"} 1\n' in text
        memory = re.search(r"resident_memory_bytes (\d+)", text)
        assert memory is not None
        assert int(memory[1]) < 80_000_000
        assert fetched(folder / "m.sock", "/healthz") == "ok\n"


def fetched(place: Path, path: str) -> str:
    connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(place))
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_logs_as_json(folder: Path) -> None:
    settings = 'log-format = "json"\nlog-level = "debug"'
    with daemon(folder, settings=settings) as nix, client(nix.address) as caller:
        caller.prepare("k")
        refused(lambda: caller.prepare("x", "nobody"))
    lines = [json.loads(line) for line in nix.log.splitlines() if line.startswith("{")]
    messages = [line["message"] for line in lines]
    assert any(message.startswith("Prepare 'k': OK in ") for message in messages)
    assert any("parent does not exist" in message for message in messages)
    assert {"time", "level", "logger", "message"} <= lines[0].keys()


def test_a_thousand_snapshots_are_there_again_at_once(folder: Path) -> None:
    with daemon(folder, settings="durable = false") as nix:
        with client(nix.address) as caller:
            caller.prepare("base")
            caller.commit("layer", "base")
            for number in range(1000):
                caller.prepare(f"k{number}", "layer")
            before = caller.names()
        nix.crash()
        assert nix.up() < 10 * 2  # two seconds, on a machine that does nothing else
        with client(nix.address) as caller:
            assert caller.names() == before


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["serve", "--config", "/nowhere/x.toml"], 78, "file of settings cannot be read"),
        (["serve", "--root", "relative"], 78, "an absolute path"),
        (["serve", "--no-such-flag"], 2, "unrecognized"),
        ([], 2, "VERB"),
        (
            ["serve", "--root", "/proc/nowhere", "--address", "/nowhere/s"],
            6,
            "directory cannot be used",
        ),
    ],
)
def test_complaints(arguments: list[str], code: int, said: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_help_is_quick_and_complete() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "serve" in done.stdout
    done = run("serve", "--help")
    for flag in ("--root DIR", "--address SOCKET", "--store ROOT", "--config FILE"):
        assert flag in done.stdout
    assert run("--version").stdout.startswith("nixfetch-snapshotter ")
