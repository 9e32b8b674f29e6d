"""Killed at any moment: the store is sound, the next fetch finishes, and nothing is left.

Nothing of a process is run when it is killed, no handler and no ``finally``; what a crash of the
machine does to data on its way to the disk is `test_power_cuts`.
"""

from __future__ import annotations

import random
import subprocess
import time
from itertools import count
from typing import TYPE_CHECKING

import pytest

from crash.subject import FULL, environ, remove, rounds
from crash.supervisor import SUPPORTED, Fault, watch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from crash.subject import Closure
    from real_nix import RealNix

pytestmark = pytest.mark.crash

SEED = 3
CUT = 30  # points of a cut


def test_killed_at_random_moments(
    wide: Closure, store: Path, nix: RealNix, show: Callable[[str], None]
) -> None:
    began = time.monotonic()
    assert wide.fetch(store).code == 0
    longest = time.monotonic() - began
    moments = random.Random(SEED)
    wanted, killed = rounds(200, 8), 0
    for _ in range(3 * wanted):  # some are done before their moment comes
        remove(store)
        with subprocess.Popen(
            wide.command(store),
            env=environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            time.sleep(moments.uniform(0.1, longest))
            process.kill()
        killed += process.returncode < 0
        wide.recovers(store, nix)
        if killed == wanted:
            break
    assert killed == wanted
    show(f"{killed} killed: each store sound, whole after the next run, nothing left over")


@pytest.mark.skipif(not SUPPORTED, reason="system calls of this processor are not known here")
def test_killed_before_each_system_call(
    small: Closure, store: Path, nix: RealNix, show: Callable[[str], None]
) -> None:
    watched = watch(small.command(store), root=store, environ=environ())
    assert watched.code == 0, watched.err
    step = 1 if FULL else max(1, len(watched.calls) // CUT)
    points = 0
    for at in count(1, step):
        remove(store)
        fault = Fault(at)
        watched = watch(small.command(store), root=store, fault=fault, environ=environ())
        if watched.struck is None:
            break
        points += 1
        small.recovers(store, nix)
    # Threads take turns: one run has some calls more than another.
    assert points >= (150 if FULL else CUT)
    show(f"{points} points")


@pytest.mark.skipif(not SUPPORTED, reason="system calls of this processor are not known here")
def test_killed_again_while_it_sweeps(
    small: Closure, store: Path, nix: RealNix, show: Callable[[str], None]
) -> None:
    """The second kill strikes the process that finds what the first one left."""
    left = store.with_name("left")
    watch(small.command(left), root=left, fault=_first_settling(small, left), environ=environ())
    assert list((left / "nix/var/nixfetch/inflight").iterdir())
    step = 1 if FULL else 17
    points = 0
    for at in count(1, step):
        remove(store)
        subprocess.run(["cp", "-a", left, store], check=True)
        fault = Fault(at)
        watched = watch(small.command(store), root=store, fault=fault, environ=environ())
        if watched.struck is None:
            break
        points += 1
        small.recovers(store, nix)
    show(f"{points} points")


def _first_settling(small: Closure, store: Path) -> Fault:
    """The point where staging is full: before the first tree gets its name."""
    watched = watch(small.command(store), root=store, environ=environ())
    remove(store)
    return Fault([call.name for call in watched.calls].index("syncfs") + 1)
