"""A mirror whose maker is killed: at every moment what it has is whole."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from random import Random
from typing import TYPE_CHECKING

import pytest

from crash.subject import PATIENCE, rounds
from mirror_walk import walk
from real_nix import SYSTEMS, real_nix
from simulated_cache import KEY, SimulatedCache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath

pytestmark = pytest.mark.crash

SEED = 8


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[StorePath]]:
    """120 paths, of 1 byte to 1 MB, that refer to each other; the last one to all."""
    random, cache = Random(SEED), SimulatedCache()
    paths: list[StorePath] = []
    for number in range(119):
        references = random.sample(paths, min(len(paths), 4))
        tree = {b"f": random.randbytes(2 ** random.randrange(20))}
        paths.append(cache.add(f"path-{number}", tree, references=references))
    paths.append(cache.add("all", references=paths))
    folder = tmp_path_factory.mktemp("cache")
    cache.dump(folder)
    return folder, paths


def command(cache: Path, mirror: Path, root: StorePath, *how: str) -> list[str]:
    return [
        *(sys.executable, "-m", "nixfetch.cli", "mirror", str(root), *how),
        *("--from", cache.as_uri(), "--to", mirror.as_uri(), "--trusted-key", str(KEY.public())),
    ]


def killed(command: list[str], seconds: float) -> bool:
    """Kill `command` after some time; whether it was still at work."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=PATIENCE)
        assert b"Traceback" not in errors
    return process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("how", [[], ["--recompress", "zstd", "--listing"]], ids=["exact", "anew"])
def test_killed_at_any_moment(
    cache: tuple[Path, list[StorePath]],
    tmp_path: Path,
    how: list[str],
    show: Callable[[str], None],
) -> None:
    folder, paths = cache
    clock = time.monotonic()
    done = subprocess.run(
        command(folder, tmp_path / "whole", paths[-1], *how), check=True, capture_output=True
    )
    whole = time.monotonic() - clock
    assert len(done.stdout.splitlines()) == len(paths)
    random = Random(SEED)
    kills, sizes = 0, set()
    for number in range(rounds(50, 8)):
        mirror = tmp_path / f"mirror-{number}"
        for _ in range(2):  # the second goes on where the first was killed
            kills += killed(command(folder, mirror, paths[-1], *how), whole * random.random())
            walked = walk(mirror)
            assert walked.sins == ()
            sizes.add(len(walked.paths))
        subprocess.run(command(folder, mirror, paths[-1], *how), check=True, capture_output=True)
        assert walk(mirror).paths == {path.base for path in paths}
        assert not (mirror / ".nixfetch").exists()
    assert kills
    show(f"mirrors killed {kills} times, with {len(sizes)} different numbers of paths: all whole")


@pytest.mark.parametrize("system", SYSTEMS)
def test_nix_copies_from_what_a_kill_left(cache: tuple[Path, list[StorePath]], system: str) -> None:
    folder, paths = cache
    random = Random(SEED)
    with real_nix(system) as nix:
        for number in range(rounds(50, 2)):
            mirror = nix.place / f"mirror-{number}"
            killed(command(folder, mirror, paths[-1]), 0.3 + random.random())
            there = sorted(walk(mirror).paths)
            if not there:
                continue
            store = nix.place / f"store-{number}"
            nix.run(
                *("nix", "copy", "--store", store, "--from", f"file://{nix.inside(mirror)}"),
                *[f"/nix/store/{base}" for base in there],
                settings={"trusted-public-keys": str(KEY.public())},
            )
            assert len(
                nix.lines(
                    "nix-store",
                    "--store",
                    store,
                    "-q",
                    "-R",
                    *(f"/nix/store/{base}" for base in there),
                )
            ) == len(there)
