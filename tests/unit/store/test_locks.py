"""Locks of paths, and the list of what a process would not leave behind."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import places
from nixfetch.store import LocalStore
from nixfetch.store.journal import Journal, is_staging_name, staging_name
from nixfetch.store.locks import lock_name, remove_stale_lock, try_lock
from simulated_cache import SimulatedCache, store_path
from unit.store.test_local import add

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = store_path("a")


@pytest.fixture
def fd(memory_path: Path) -> Iterator[int]:
    fd = os.open(memory_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_a_lock_has_one_holder(fd: int, memory_path: Path) -> None:
    lock = try_lock(fd, PATH)
    assert lock is not None
    assert places.names(memory_path) == [f"{PATH.base}.lock"]
    assert try_lock(fd, PATH) is None
    lock.release()
    assert places.names(memory_path) == []
    again = try_lock(fd, PATH)
    assert again is not None
    again.release()


def test_who_waited_on_a_removed_file_sees_it(fd: int, memory_path: Path) -> None:
    lock = try_lock(fd, PATH)
    assert lock is not None
    waiting = os.open(memory_path / lock_name(PATH), os.O_RDWR)
    lock.release()
    fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert os.fstat(waiting).st_size == 1  # Nix's sign for: look again
    os.close(waiting)


def test_a_stale_lock_is_removed_and_a_held_one_is_not(fd: int, memory_path: Path) -> None:
    assert not remove_stale_lock(fd, lock_name(PATH))
    lock = try_lock(fd, PATH)
    assert lock is not None
    assert not remove_stale_lock(fd, lock_name(PATH))
    lock.release()
    (memory_path / lock_name(PATH)).touch()
    assert remove_stale_lock(fd, lock_name(PATH))
    assert places.names(memory_path) == []


def test_staging_names() -> None:
    name = staging_name(PATH.hash_part)
    assert is_staging_name(name)
    assert name.startswith(f"{PATH.hash_part}-nixfetch.")
    assert not is_staging_name(PATH.base)
    assert not is_staging_name(name + "0")


def test_lists_of_the_living_are_left_alone(memory_path: Path) -> None:
    cache = SimulatedCache()
    path = cache.add("a", {b"x": b"text"})
    with LocalStore(memory_path) as one:
        add(one, cache, path)
        with LocalStore(memory_path):
            pass
        assert one.settle() == [path]
        assert (one.physical(path) / "x").read_bytes() == b"text"


def test_nothing_else_is_removed_for_a_list(memory_path: Path) -> None:
    cache = SimulatedCache()
    path = cache.add("a", {b"x": b"text"})
    with LocalStore(memory_path) as store:
        add(store, cache, path)
        store.settle()
        inflight = store.layout.inflight
        (store.layout.store / f"{PATH.base}.chroot").mkdir()
    lies = [path.base, "../../var", "/etc", ".links", f"{PATH.base}.chroot", "", "\0"]
    (inflight / "1.00000000").write_text("".join(f"{lie}\n" for lie in lies))
    with LocalStore(memory_path) as store:
        assert places.names(store.layout.store) == sorted([path.base, f"{PATH.base}.chroot"])
        assert len(places.names(inflight)) == 1  # our own


DYING = """
import os, signal, sys
from pathlib import Path
from simulated_cache import SimulatedCache
from nixfetch.store import LocalStore
cache = SimulatedCache()
path = cache.add("a", {b"x": b"text", b"d": {b"y": b"more"}})
store = LocalStore(Path(sys.argv[1]))
with store.adding(cache.trusted(path)) as sink:
    sink.write(cache.objects[cache.nar_name(path)][:-int(sys.argv[2])])
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("missing", [1, 100, 300])
def test_what_the_dead_left_is_swept(memory_path: Path, missing: int) -> None:
    tests = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", DYING, memory_path, str(missing)],
        env={**os.environ, "PYTHONPATH": str(tests)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    directory = memory_path / "nix/store"
    left = {entry.suffix for entry in directory.iterdir() if entry.name != ".links"}
    assert len(left - {".links"}) == 2  # a tree and a lock; a shelf too once a file was complete
    assert (".links" in left) == (missing < 300)
    with LocalStore(memory_path) as store:
        assert places.names(directory) == []
        assert len(places.names(store.layout.inflight)) == 1
    assert places.names(memory_path / "nix/var/nixfetch/inflight") == []


def test_a_list_that_cannot_be_swept_stays(memory_path: Path) -> None:
    with LocalStore(memory_path) as store:
        inflight = store.layout.inflight
    with Journal(inflight)._lock:  # a list of a living process is not even read
        pass
    dead = inflight / "1.00000000"
    dead.write_text(f"{staging_name(PATH.hash_part)}\n")
    with LocalStore(memory_path):
        assert not dead.exists()
