"""A download that is interrupted goes on in the next run from the bytes that came.

`nixfetch fetch` is stopped at a random byte of a large NAR, what it has read is counted exactly
(what the server sent, less what lies unread in the kernel), and then it gets SIGINT or kill -9.
The next run may download what was missing and `SLACK`. A cut is made; NIXFETCH_INTERRUPTED=full
makes all points with a NAR of 200 MB.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

import sins
from hostile_server import HostileServer, unread
from measured import MEBIBYTE, Place
from servers import wait_until
from simulated_cache import KEY, SimulatedCache

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hostile_server import Behaviour, Exchange

pytestmark = pytest.mark.e2e

FULL = os.environ.get("NIXFETCH_INTERRUPTED") == "full"
SIZE = (200 if FULL else 24) * 1_000_000  # bytes of the NAR, more or less
POINTS = 50 if FULL else 6
SLACK = MEBIBYTE  # bytes that may be downloaded a second time
PATIENCE = 60.0  # seconds for one run
PUBLIC = str(KEY.public())


@dataclass(frozen=True, slots=True)
class Large:
    """A cache with one large path that does not compress."""

    path: str
    nar: str
    """The name of its NAR."""
    objects: dict[str, bytes]

    @property
    def size(self) -> int:
        return len(self.objects[self.nar])


@pytest.fixture(scope="module")
def large() -> Large:
    cache = SimulatedCache()
    path = cache.add("large", {b"file": Random(SIZE).randbytes(SIZE)})
    return Large(str(path), cache.nar_name(path), cache.objects)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield Place.below(tmp_path / "place")
    shutil.rmtree(tmp_path / "place")


@dataclass(slots=True)
class Interruption:
    """Ends a process while it downloads. Give its method `look` to a server's `watch`."""

    point: int
    """Bytes of the NAR that the server sends before."""
    number: signal.Signals
    name: str
    process: subprocess.Popen[str] | None = None
    started: threading.Event = field(default_factory=threading.Event)
    received: int | None = None
    """Bytes of the NAR that the process had read; None: it was not interrupted."""

    def look(self, exchange: Exchange) -> None:
        if exchange.request.name != self.name or exchange.sent < self.point:
            return
        if self.received is not None:
            return
        assert self.started.wait(PATIENCE)
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        _stands_still(self.process.pid)
        self.received = exchange.sent - _settled(exchange)
        self.process.send_signal(self.number)
        if self.number != signal.SIGKILL:
            self.process.send_signal(signal.SIGCONT)


def _stands_still(pid: int) -> None:
    """Wait until no thread of a stopped process runs any more."""
    deadline = time.monotonic() + PATIENCE
    while True:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        states = {(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks}
        if states == {"T"}:
            return
        assert time.monotonic() < deadline, states
        time.sleep(0.002)


def _settled(exchange: Exchange) -> int:
    """Unread bytes, once no acknowledgement is under way."""
    before = -1
    while (now := unread(exchange).total) != before:
        before = now
        time.sleep(0.005)
    return now


def interrupt(
    place: Place, server: HostileServer, large: Large, point: int, number: signal.Signals
) -> int:
    """Begin to fetch, and end it at a point; gives the bytes that it had read."""
    interruption = Interruption(point, number, large.nar)
    server.watch = interruption.look
    try:
        with subprocess.Popen(
            place.command([large.path], [server.url], PUBLIC),
            env=place.environ({}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            interruption.process = process
            interruption.started.set()
            try:
                _, err = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
    finally:
        server.watch = lambda _: None
    assert process.returncode == (130 if number == signal.SIGINT else -number), err
    assert "Traceback" not in err
    assert place.valid() == []
    assert interruption.received is not None
    return interruption.received


def finish(place: Place, server: HostileServer, large: Large) -> int:
    """Fetch to the end; gives the bytes of the NAR that were sent."""
    before = server.sent[large.nar]
    ended = place.fetch([large.path], [server.url], PUBLIC, limit=PATIENCE, settings={})
    assert (ended.code, ended.errors) == (0, []), ended.err
    place.is_whole([large.path], PUBLIC)
    assert place.kept() < SLACK
    return server.sent[large.nar] - before


@pytest.mark.parametrize("number", range(POINTS))
def test_the_next_run_goes_on(number: int, large: Large, place: Place) -> None:
    point = Random(number).randrange(large.size)
    with HostileServer(large.objects) as server:
        how = signal.SIGINT if number % 2 == 0 else signal.SIGKILL
        received = interrupt(place, server, large, point, how)
        assert finish(place, server, large) <= large.size - received + SLACK


def test_interrupted_twice(large: Large, place: Place) -> None:
    with HostileServer(large.objects) as server:
        received = interrupt(place, server, large, large.size // 2, signal.SIGKILL)
        received += interrupt(place, server, large, large.size // 4, signal.SIGINT)
        assert finish(place, server, large) <= large.size - received + 2 * SLACK


def test_what_is_whole_and_waits_for_its_references(place: Place) -> None:
    """All of a NAR is there, and killed is the process before it could register the path."""
    cache = SimulatedCache()
    small = cache.add("small", b"small")
    data = Random(1).randbytes(6_000_000)
    top = cache.add("large", {b"file": data}, references=[small])
    large = Large(str(top), cache.nar_name(top), cache.objects)
    sin = sins.first(1, sins.silent)
    with HostileServer(cache.objects, {cache.nar_name(small): sin}) as server:
        with subprocess.Popen(
            place.command([large.path], [server.url], PUBLIC),
            env=place.environ({}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                staged = place.store / "nix/store"
                wait_until(lambda: _bytes_below(staged) >= len(data), seconds=PATIENCE)
                time.sleep(0.2)  # the tree is there; let its last bytes be hashed
            finally:
                process.kill()
        assert place.valid() == []
        before = server.sent[large.nar]
        ended = place.fetch([large.path], [server.url], PUBLIC, limit=PATIENCE, settings={})
        assert ended.code == 0, ended.err
        assert server.sent[large.nar] - before <= SLACK


def _bytes_below(directory: Path) -> int:
    files = [file for file in directory.rglob("*") if not file.is_symlink() and file.is_file()]
    return sum(file.stat().st_size for file in files)


def test_a_server_that_has_no_ranges_any_more(large: Large, place: Place) -> None:
    with HostileServer(large.objects) as server:
        interrupt(place, server, large, large.size // 2, signal.SIGKILL)
        server.sins["nar/*"] = sins.without_ranges
        assert finish(place, server, large) >= large.size


@pytest.mark.parametrize(
    "sin", [sins.range_refused, sins.range_mislabelled, sins.range_shifted, sins.range_unlabelled]
)
def test_a_server_that_has_bad_ranges(large: Large, place: Place, sin: Behaviour) -> None:
    with HostileServer(large.objects) as server:
        interrupt(place, server, large, large.size // 2, signal.SIGKILL)
        server.sins["nar/*"] = sins.interrupted(large.size, sin)
        finish(place, server, large)


def test_kept_bytes_that_went_bad(large: Large, place: Place) -> None:
    with HostileServer(large.objects) as server:
        interrupt(place, server, large, large.size // 2, signal.SIGINT)
        kept = place.store / "nix/var/nixfetch/partial"
        damaged = [file for file in kept.rglob("*") if file.stat().st_size > SLACK]
        assert damaged, [(f, f.stat().st_size) for f in kept.rglob("*")]
        for file in damaged:
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
        finish(place, server, large)
