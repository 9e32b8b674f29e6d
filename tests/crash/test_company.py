"""Many processes at one store: nobody fails, nothing is fetched twice, nobody waits for ever.

Some of them are killed, and a collector is always at work.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from crash.subject import PATIENCE, environ, remove, rounds
from servers import Answer, LoopbackServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from crash.subject import Closure
    from real_nix import RealNix
    from servers import Request

pytestmark = pytest.mark.crash

PROCESSES = rounds(16, 6)
KILLED = 2  # of them
SEED = 7
GC_PAUSE = 0.05  # seconds between two collections


@pytest.mark.parametrize("collected", [False, True], ids=["alone", "with-gc"])
def test_the_same_closure(
    collected: bool, flat: Closure, store: Path, nix: RealNix, show: Callable[[str], None]
) -> None:
    moments = random.Random(SEED)
    times, requests, collections = rounds(25, 3), 0, 0
    for _ in range(times):
        remove(store)
        with _cache(flat) as server:
            if collected:
                with _collecting(store) as done:
                    _all_at_once(flat, store, server, moments)
                collections += len(done)
            else:
                _all_at_once(flat, store, server, moments)
            requests += len([name for name in server.names() if _nar(name)])
        flat.recovers(store, nix)
    show(
        f"{times} rounds of {PROCESSES} processes, {KILLED} killed in each,"
        f" {collections} collections: {requests} NARs asked for, {times * len(flat.paths)} needed"
    )


def _all_at_once(
    closure: Closure, store: Path, server: LoopbackServer, moments: random.Random
) -> None:
    victims = range(KILLED)
    processes = [
        subprocess.Popen(
            closure.command(store, "--root", "wanted", source=f"{server.url}/{number}"),
            env=environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    began = time.monotonic()
    for number in victims:
        time.sleep(moments.uniform(0, 0.1 * PROCESSES))
        processes[number].kill()
    try:
        errors = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert time.monotonic() - began < PATIENCE
    for number, process in enumerate(processes):
        if number not in victims:
            assert process.returncode == 0, errors[number]
            assert "error:" not in errors[number]
    fetched = [_nar(name) for name in server.names() if int(name.split("/")[0]) not in victims]
    nars = [name for name in fetched if name]
    # Each at most once; those that are missing the killed ones had finished.
    assert len(nars) == len(set(nars)), sorted(nars)
    assert {name for name in map(_nar, server.names()) if name} == {
        f"nar/{file.name}" for file in (closure.folder / "nar").iterdir()
    }


def _nar(name: str) -> str | None:
    _, _, object_ = name.partition("/")
    return object_ if object_.startswith("nar/") else None


@contextmanager
def _cache(closure: Closure) -> Iterator[LoopbackServer]:
    """The cache, under a name for each process: /0, /1, …"""

    def answer(request: Request) -> Answer | None:
        _, _, name = request.name.partition("/")
        file = closure.folder / name
        return Answer(file.read_bytes()) if file.is_file() else None

    with LoopbackServer() as server:
        server.faults["*"] = answer
        yield server


@contextmanager
def _collecting(store: Path) -> Iterator[list[int]]:
    """Collect garbage, again and again; gives the exit codes."""
    stopped = threading.Event()
    problems: list[str] = []
    codes: list[int] = []
    command: list[str | Path] = [sys.executable, "-m", "nixfetch.cli", "gc", "--store", store]
    made = store / "nix/var/nix/db/schema"

    def collect() -> None:
        while not stopped.wait(GC_PAUSE):
            if not made.exists():
                continue
            done = subprocess.run(
                command,
                env=environ(),
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            codes.append(done.returncode)
            if done.returncode:
                problems.append(done.stderr)

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        yield codes
    finally:
        stopped.set()
        thread.join()
    assert problems == []
