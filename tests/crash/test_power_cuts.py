"""The power goes: what is on the disk at one moment is all that there is.

An ext4 on an image whose writes bypass the cache of the host; the image is copied in one step,
which is what a disk looks like after a cut. Mounting the copy replays the journal.
"""

from __future__ import annotations

import random
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crash import disks
from crash.subject import environ, is_sound, rounds
from crash.supervisor import SUPPORTED, SYNCS, watch
from nixfetch.store import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from crash.subject import Closure
    from real_nix import RealNix

pytestmark = pytest.mark.crash

DISK = 256 * 1024 * 1024  # bytes
SEED = 5
LATER = 0.05  # seconds: about what it takes to settle a batch


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Path]:
    """Where images are; ``blank`` is an empty one."""
    disks.takes_root()
    with disks.reflinking(tmp_path / "machine", size=4 * DISK) as folder:
        disks.blank(folder / "blank", DISK)
        # Blocks as large as those below: there is no smaller direct write.
        disks.call("mkfs.ext4", "-q", "-F", "-b", "4096", folder / "blank")
        yield folder


@contextmanager
def _running(machine: Path) -> Iterator[Path]:
    """A disk that is in use, ``disk`` of the machine; its mount point."""
    disk = machine / "disk"
    disks.clone(machine / "blank", disk)
    with disks.on_image(disk, machine.with_name("running"), "ext4") as mounted:
        yield mounted


@contextmanager
def _after_the_cut(machine: Path) -> Iterator[Path]:
    """What a machine finds that starts again from the image ``cut``."""
    with disks.on_image(machine / "cut", machine.with_name("restarted"), "ext4") as mounted:
        yield mounted / "store"


def _cut(machine: Path) -> None:
    disks.clone(machine / "disk", machine / "cut")


def test_after_success_all_is_there(
    machine: Path, flat: Closure, nix: RealNix, show: Callable[[str], None]
) -> None:
    cuts = rounds(30, 3)
    for _ in range(cuts):
        with _running(machine) as disk:
            ran = flat.fetch(disk / "store")
            _cut(machine)
        assert ran.code == 0, ran.err
        with _after_the_cut(machine) as store:
            assert _empty_files(store) == []
            flat.is_fetched(store)
            is_sound(store, nix)
    show(f"{cuts} cuts after success, all of the closure is there")


@pytest.mark.skipif(not SUPPORTED, reason="system calls of this processor are not known here")
def test_without_syncs_this_test_would_fail(machine: Path, flat: Closure) -> None:
    with _running(machine) as disk:
        store = disk / "store"
        ran = watch(flat.command(store), root=store, calls=SYNCS, pretended=True, environ=environ())
        _cut(machine)
    assert ran.code == 0, ran.err
    with _after_the_cut(machine) as store:
        assert not (store / "nix/var/nix/db/schema").exists() or _empty_files(store)


def test_in_mid_run_what_is_valid_is_whole(
    machine: Path, steep: Closure, nix: RealNix, show: Callable[[str], None]
) -> None:
    cuts = rounds(30, 3)
    moments = random.Random(SEED)
    longest = _time_at_work(machine, steep)
    found: list[int] = []  # how many paths were valid
    for number in range(cuts):
        part = (number + moments.random()) / cuts
        with _running(machine) as disk:
            if number % 2:  # by what is to be seen: a run takes longer on a busy machine
                named, seconds = int(part * len(steep.paths)), moments.uniform(0, LATER)
            else:
                named, seconds = 0, part * longest
            _cut_in_mid_run(machine, steep, disk / "store", named, seconds)
        with _after_the_cut(machine) as store:
            is_sound(store, nix)
            if (store / "nix/var/nix/db/schema").exists():
                found.append(_valid(store))
            _recovers(steep, store, nix)
    assert len(found) >= cuts // 2
    partly = sum(0 < count < len(steep.paths) for count in found)
    show(f"{cuts} cuts in mid-run, {len(found)} of a store, {partly} of one with some of its paths")


def _time_at_work(machine: Path, closure: Closure) -> float:
    """Seconds from the first sight of a store to the end of a run."""
    with _running(machine) as disk, _fetching(closure, disk / "store") as process:
        _wait_for_names(process, closure, disk / "store", 0)
        began = time.monotonic()
        process.wait()
        return time.monotonic() - began


def _cut_in_mid_run(
    machine: Path, closure: Closure, store: Path, named: int, seconds: float
) -> None:
    """Fetch, and cut some time after so many paths have their names."""
    with _fetching(closure, store) as process:
        _wait_for_names(process, closure, store, named)
        time.sleep(seconds)
        _cut(machine)
        process.kill()


def _fetching(closure: Closure, store: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        closure.command(store),
        env=environ(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _wait_for_names(
    process: subprocess.Popen[bytes], closure: Closure, store: Path, count: int
) -> None:
    """Wait until so many paths have their names, or all is over."""
    names = {Path(path).name for path in closure.paths}
    while process.poll() is None:
        with suppress(FileNotFoundError):
            seen = (entry.name for entry in (store / "nix/store").iterdir())
            if len(names.intersection(seen)) >= count:
                return


def _recovers(closure: Closure, store: Path, nix: RealNix) -> None:
    """As `Closure.recovers`, but the lists of what was in staging may be lost: a collector's."""
    ran = closure.fetch(store)
    assert (ran.code, ran.errors) == (0, []), ran.err
    closure.is_valid(store)
    is_sound(store, nix)


def _valid(store: Path) -> int:
    with LocalStore(store, read_only=True) as opened:
        return len(opened.all_valid())


def _empty_files(store: Path) -> list[Path]:
    """Nothing in the closure is empty: these lost their data."""
    return [
        file
        for file in (store / "nix/store").rglob("*")
        if file.is_file() and not file.is_symlink() and not file.stat().st_size
    ]
