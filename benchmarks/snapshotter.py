"""What does our snapshotter cost beside containerd's own overlayfs?

    python -m benchmarks.snapshotter [calls|paths|starts|daemon …] [--rounds N] [--containerd 2.1]

As root, with the containerds that the end-to-end tests use (NIXFETCH_TEST_CHROOT). Ours and
overlayfs take turns in one run, behind the same containerd.

calls: Prepare, Stat, Mounts and Remove, as containerd's own client sees them (conformance/).
paths: Prepare of layers and of containers with 50 store paths that are there already.
starts: `ctr run` of closures, from 10 to 2000 paths, and of images with many layers.
daemon: its memory, and how soon it serves again with 1000 snapshots.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import conformance_suite
from containerd_host import VERSIONS
from containers import NAME, Machine, World, machine
from images import Image, busybox_layer, layer, nix_layer
from snapshotter._pb.snapshots_pb2 import (
    CommitSnapshotRequest,
    PrepareSnapshotRequest,
    PrepareSnapshotResponse,
    RemoveSnapshotRequest,
)
from snapshotter.containerd import Containerd

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CONTROL = "overlayfs"
CALLS = 400  # of each kind in a round
RESIDENT = 50  # store paths
SIZES = (10, 300, 2000)  # store paths of closures
LAYERS = 128
SNAPSHOTS = 1000
METRICS = ("prepare", "stat", "mounts", "remove")


def main() -> None:
    questions: dict[str, Callable[[Machine, World, int], None]] = {
        "calls": calls,
        "paths": paths,
        "starts": starts,
        "daemon": memory,
    }
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help="by default all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--containerd", nargs="+", choices=VERSIONS, default=VERSIONS)
    args = parser.parse_args()
    asked = args.questions or list(questions)
    if not set(asked) <= set(questions):
        parser.error(f"questions are {', '.join(questions)}")
    for version in args.containerd:
        for name in asked:
            world = World()
            with machine(version, world.cache, activated=True) as here:
                questions[name](here, world, args.rounds)


def calls(here: Machine, _world: World, rounds: int) -> None:
    suite = conformance_suite.build()
    found: dict[str, dict[str, list[float]]] = {
        name: {metric: [] for metric in METRICS} for name in (NAME, CONTROL)
    }
    for number in range(rounds + 1):
        for name in (NAME, CONTROL) if number % 2 else (CONTROL, NAME):
            for metric, value in _suite(suite, here, name).items():
                if number:  # the first round warms up
                    found[name][metric].append(value)
    print(f"\n## containerd {here.version}: a call, in ms (medians of {rounds} rounds of {CALLS})")
    print("snapshotter," + ",".join(METRICS))
    for name, metrics in found.items():
        print(f"{name}," + ",".join(f"{statistics.median(each):.2f}" for each in metrics.values()))


def _suite(suite: Path, here: Machine, name: str) -> dict[str, float]:
    """Milliseconds of each kind of call."""
    flags = ("-test.root", "-test.bench", "PrepareRemove", "-test.benchtime", f"{CALLS}x")
    done = subprocess.run(
        [suite, "-test.run", "^$", *flags],
        env={"PATH": os.environ["PATH"], "SUITE_SOCK": str(here.host.socket), "SUITE_NAME": name},
        capture_output=True,
        text=True,
        check=True,
    )
    values = dict(re.findall(r"([\d.]+) (\w+)-us", done.stdout))
    return {metric: float(value) / 1000 for value, metric in values.items()}


def paths(here: Machine, world: World, rounds: int) -> None:
    resident = tuple(map(str, world.big(RESIDENT)))
    labels = dict(nix_layer(resident, files=resident).annotations)
    service = "/containerd.services.snapshots.v1.Snapshots"
    namespace = [("containerd-namespace", "bench")]
    from google.protobuf.empty_pb2 import Empty

    taken: dict[str, list[float]] = {}
    with Containerd(here.host.socket, timeout=60.0) as client:

        def prepare(name: str, key: str, parent: str, told: dict[str, str]) -> float:
            request = PrepareSnapshotRequest(
                snapshotter=name,
                key=key,
                parent=parent,
                labels={"containerd.io/gc.root": "x", **told},
            )
            begun = time.perf_counter()
            client.call(f"{service}/Prepare", request, PrepareSnapshotResponse, metadata=namespace)
            return (time.perf_counter() - begun) * 1000

        def remove(name: str, key: str) -> None:
            request = RemoveSnapshotRequest(snapshotter=name, key=key)
            client.call(f"{service}/Remove", request, Empty, metadata=namespace)

        for name, told in ((NAME, labels), (CONTROL, {})):
            prepare(name, "base-1", "", told)
            commit = CommitSnapshotRequest(
                snapshotter=name, name="base", key="base-1", labels={"containerd.io/gc.root": "x"}
            )
            client.call(f"{service}/Commit", commit, Empty, metadata=namespace)
        for number in range(rounds * CALLS // 4):
            for what, name, parent, told in (
                (f"{NAME}: a layer of {RESIDENT} paths", NAME, "", labels),
                (f"{NAME}: a container of {RESIDENT} paths", NAME, "base", {}),
                (f"{CONTROL}: a layer", CONTROL, "", {}),
                (f"{CONTROL}: a container", CONTROL, "base", {}),
            ):
                key = f"key-{number}"
                taken.setdefault(what, []).append(prepare(name, key, parent, told))
                remove(name, key)
    print(f"\n## containerd {here.version}: Prepare, in ms, of {rounds * CALLS // 4} each")
    print("what,p50,p99")
    for what, each in taken.items():
        ordered = sorted(each)
        print(f"{what},{statistics.median(each):.2f},{ordered[int(len(ordered) * 0.99)]:.2f}")


def starts(here: Machine, world: World, rounds: int) -> None:
    plain = Image("example.test/plain:v1", (busybox_layer(),))
    here.load(plain, snapshotter=CONTROL)
    here.load(plain)
    subjects: list[tuple[str, str, Image]] = [
        (f"{CONTROL}: no store path", CONTROL, plain),
        (f"{NAME}: no store path", NAME, plain),
    ]
    for size in SIZES:
        small = [str(path) for path in world.big(size)]
        many = nix_layer([*world.closure, *small], files=[str(world.words), *small])
        image = Image(f"example.test/paths-{size}:v1", (busybox_layer(), many))
        begun = time.perf_counter()
        here.load(image)
        print(f"import of {size} paths into an empty store: {time.perf_counter() - begun:.2f} s")
        subjects.append((f"{NAME}: {size} paths", NAME, image))
    tall = Image(
        "example.test/tall:v1",
        (*(layer({f"layer-{number}": b""}) for number in range(LAYERS - 1)), busybox_layer()),
    )
    for name in (CONTROL, NAME):
        here.load(tall, snapshotter=name)
        subjects.append((f"{name}: {len(tall.layers)} layers", name, tall))
    taken: dict[str, list[float]] = {what: [] for what, _, _ in subjects}
    for number in range(rounds + 1):
        for what, name, image in _turned(subjects, number):
            begun = time.perf_counter()
            here.host.once(image.name, "ls", "/bin/busybox", snapshotter=name)
            if number:
                taken[what].append((time.perf_counter() - begun) * 1000)
    print(f"\n## containerd {here.version}: ctr run --rm, in ms (medians of {rounds})")
    print("image,ms")
    for what, each in taken.items():
        print(f"{what},{statistics.median(each):.0f}")


def _turned(
    subjects: Sequence[tuple[str, str, Image]], number: int
) -> Sequence[tuple[str, str, Image]]:
    at = number % len(subjects)
    return [*subjects[at:], *subjects[:at]]


def memory(here: Machine, world: World, _rounds: int) -> None:
    print(f"\n## containerd {here.version}: the daemon")
    print(f"memory when it begins: {_rss(here):.0f} MB")
    image = world.hybrid()
    here.load(image)
    here.once(image, world.program)
    print(f"memory after a closure was fetched and run: {_rss(here):.0f} MB")
    service = "/containerd.services.snapshots.v1.Snapshots"
    with Containerd(here.nix.address) as client:
        for number in range(SNAPSHOTS):
            request = PrepareSnapshotRequest(snapshotter=NAME, key=f"many-{number}")
            client.call(f"{service}/Prepare", request, PrepareSnapshotResponse)
    print(f"memory with {SNAPSHOTS} snapshots: {_rss(here):.0f} MB")
    here.nix.crash()
    print(f"serves again after kill -9 with {SNAPSHOTS} snapshots: {here.nix.up():.2f} s")


def _rss(here: Machine) -> float:
    status = Path(f"/proc/{here.nix.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
