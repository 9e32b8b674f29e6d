"""Kills and restarts of our daemon and of containerd, while containers run.

NIXFETCH_CRASH=full makes it a hundred kills of the daemon, and twenty restarts of containerd.
"""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from containerd_host import PATIENCE, VERSIONS, Version, kill, wait_until
from containers import NAME, Machine, World, machine
from images import Image, registry
from servers import Answer
from simulated_cache import KEY
from snapshotter._pb.snapshots_pb2 import PrepareSnapshotRequest, PrepareSnapshotResponse
from snapshotter.containerd import Containerd

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e

FULL = os.environ.get("NIXFETCH_CRASH") == "full"
KILLS = 100 if FULL else 4
RESTARTS = 20 if FULL else 2
SNAPSHOTS = 1000 if FULL else 100
ENDED = 15.0  # seconds; the daemon gives itself less than ten


@pytest.fixture(params=VERSIONS)
def here(request: pytest.FixtureRequest) -> Iterator[Machine]:
    world = World()
    with machine(request.param, world.cache, activated=True) as here:
        before = here.host.mounts()
        yield here
        here.host.tidy()
        here.is_tidy()
        assert here.host.mounts() == before
        here.store_is_whole(str(KEY.public()))


@pytest.fixture
def world() -> World:
    return World()


@contextmanager
def keeping(here: Machine, image: Image, world: World) -> Iterator[Callable[[], None]]:
    """A container that has to live through it all; gives who asks whether it does."""
    here.load(image)
    here.start(image, "keeper", "sleep", "100000")
    process = here.host.ctr("task", "ls").out

    def lives() -> None:
        ran = here.host.inside("keeper", "sh", "-c", f"{world.program} still; touch /tmp/a")
        assert ran.out == "words of the store\napp: still\n"
        assert here.host.ctr("task", "ls").out == process

    lives()
    yield lives
    lives()
    here.host.stop("keeper")


def consistent(here: Machine) -> None:
    """Hold the daemon's books to what is on the disk, now or once it has tidied up."""

    def found() -> tuple[list[str], list[str], list[str]]:
        roots = sorted(name.rpartition("-")[2] for name in here.roots())
        return here.rows(), here.directories(), roots

    def agree() -> bool:
        rows, directories, roots = found()
        return rows == directories and set(roots) <= set(rows)

    wait_until(agree, lambda: f"{found()}", of=here.host)


def test_containerd_restarts(here: Machine, world: World) -> None:
    image = world.hybrid()
    with keeping(here, image, world) as lives:
        mounts, snapshots = here.host.mounts(), here.host.snapshots(NAME)
        for number in range(RESTARTS):
            here.host.down(signal.SIGKILL if number % 2 else signal.SIGTERM)
            here.host.up()
            lives()
            assert here.host.snapshots(NAME) == snapshots
            assert here.host.mounts() == mounts
        assert here.once(image, world.program, "new").out == "words of the store\napp: new\n"


def test_the_daemon_restarts(here: Machine, world: World) -> None:
    image = world.hybrid()
    with keeping(here, image, world) as lives:
        mounts, snapshots = here.host.mounts(), here.host.snapshots(NAME)
        told = here.host.ctr("snapshots", "--snapshotter", NAME, "mounts", "/x", "keeper").out
        for number in range(RESTARTS):
            if number % 2:
                here.nix.crash()
            else:
                here.nix.down()
            # Nobody needs it while nothing begins or ends.
            lives()
            if number % 2:
                here.host.down()
                here.host.up()
            here.nix.up()
            assert here.host.snapshots(NAME) == snapshots
            assert here.host.mounts() == mounts
            again = here.host.ctr("snapshots", "--snapshotter", NAME, "mounts", "/x", "keeper").out
            assert again == told
            consistent(here)
        assert here.once(image, world.program, "new").out == "words of the store\napp: new\n"


def test_kills_of_the_daemon(here: Machine, world: World, tmp_path: Path) -> None:
    """At any moment of imports, pulls and runs; whatever failed works when it is done again."""
    image, kept = world.image("loop", complete=True), world.hybrid("kept")
    with registry(tmp_path / "registry") as hub, keeping(here, kept, world) as lives:
        archive = image.archive(here.host.folder / "loop.tar")
        reference = hub.push(image)
        pull = (
            ("image", "pull", "--plain-http", "--snapshotter", NAME, reference)
            if here.version != "1.6"
            else ("image", "import", "--snapshotter", NAME, str(archive))
        )
        steps = (
            ("image", "import", "--snapshotter", NAME, str(archive)),
            pull,
            ("run", "--rm", "--snapshotter", NAME, "--cgroup", "", image.name, "loop"),
        )
        spans = [1.0, 1.0, 1.0]  # seconds that each step took last
        snapshots = None
        chance = random.Random(5)
        for number in range(KILLS):
            which = number % len(steps)
            if which == 2:
                seconds_of(here, steps[0])
            killed_in(here, steps[which], chance.uniform(0, spans[which]))
            consistent(here)
            lives()
            here.host.ctr("container", "rm", "loop", check=False)
            spans[which] = seconds_of(here, steps[which])
            here.host.ctr("image", "rm", image.name, reference, check=False)
            here.host.collect()
            consistent(here)
            if snapshots is None:
                snapshots = here.host.snapshots(NAME)
            assert here.host.snapshots(NAME) == snapshots
            if number % 4 == 3:  # so that paths are fetched again
                assert here.nixfetch("gc").code == 0


def seconds_of(here: Machine, step: tuple[str, ...]) -> float:
    """Do a step until it works: containerd waits some seconds before it dials again."""
    taken: list[float] = []

    def works() -> bool:
        begun = time.monotonic()
        ran = here.host.ctr(*step, check=False)
        taken.append(time.monotonic() - begun)
        if ran.code:
            here.host.ctr("container", "rm", "loop", check=False)
        return ran.code == 0

    wait_until(works, f"{step} fails", of=here.host)
    return taken[-1]


def killed_in(here: Machine, step: tuple[str, ...], after: float) -> None:
    """Kill the daemon `after` some seconds of a step, and start it again."""
    with here.host.going_on(*step) as process:
        time.sleep(after)
        here.nix.crash()
        here.nix.up()
        # It fails or has ended; nothing waits for an answer that never comes.
        process.wait(PATIENCE)


def test_it_is_told_to_end_while_it_fetches(here: Machine, world: World) -> None:
    name = world.cache.nar_name(world.tools)
    here.cache.faults[name] = Answer(b"x", delay=60.0)
    image = world.image(complete=True)
    with importing(here, image) as process:
        wait_until(lambda: here.cache.asked(name) > 0, "nothing is fetched", of=here.host)
        begun = time.monotonic()
        here.nix.down()
        assert time.monotonic() - begun < ENDED
        here.cache.faults.clear()
        here.nix.up()
        process.wait(PATIENCE)
    consistent(here)
    here.load_at_last(image)
    assert here.once(image).out == "words of the store\napp: you\n"


def test_who_gives_up_is_no_longer_worked_for(world: World) -> None:
    name = world.cache.nar_name(world.tools)
    with machine("2.1", world.cache) as here:
        here.cache.faults[name] = Answer(b"x", delay=60.0)
        with importing(here, world.image(complete=True)) as process:
            wait_until(lambda: here.cache.asked(name) > 0, "nothing is fetched", of=here.host)
            kill(process, signal.SIGKILL)
            process.wait(PATIENCE)
        wait_until(lambda: not here.rows() and not here.roots(), "it goes on", of=here.host)


@contextmanager
def importing(here: Machine, image: Image) -> Iterator[subprocess.Popen[bytes]]:
    """An import that goes on meanwhile."""
    archive = image.archive(here.host.folder / "slow.tar")
    words = ("image", "import", "--snapshotter", NAME, archive)
    with here.host.going_on(*words) as process:
        yield process


def test_a_restart_with_many_snapshots(tmp_path: Path) -> None:
    with machine("1.6", World().cache) as here:
        method = "/containerd.services.snapshots.v1.Snapshots/Prepare"
        with Containerd(here.nix.address) as client:
            for number in range(SNAPSHOTS):
                request = PrepareSnapshotRequest(snapshotter=NAME, key=f"many-{number}")
                client.call(method, request, PrepareSnapshotResponse)
        here.nix.crash()
        seconds = here.nix.up()
        assert len(here.rows()) == SNAPSHOTS
        assert seconds < 2.0 if FULL else seconds < 30.0, seconds


@pytest.mark.parametrize("version", VERSIONS)
def test_each_may_begin_before_the_other(version: Version, world: World) -> None:
    """Without a service manager that holds the socket, too; who asks meanwhile asks again."""
    with machine(version, world.cache) as here:
        here.nix.down()
        here.host.down()
        here.nix.up()
        here.host.up()
        here.nix.down()
        image = world.image()
        assert here.load(image, check=False).code
        here.nix.up()
        here.load_at_last(image)
        assert here.once(image).out == "words of the store\napp: you\n"
        here.host.tidy()
        here.is_tidy()
