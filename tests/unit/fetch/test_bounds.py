from __future__ import annotations

import os
import shutil
import subprocess
import tracemalloc
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from nixfetch.errors import StoreError
from nixfetch.formats.hashes import sha256
from nixfetch.formats.narinfo import NarInfo
from nixfetch.plan.trust import TrustPolicy
from nixfetch.store import LocalStore
from simulated_cache import SimulatedCache, store_path
from unit.fetch.runs import consistent, fetch, names_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath

PATHS = 10_000
FAN_OUT = 10
KIB = 1024


def wide_cache() -> SimulatedCache:
    """`PATHS` narinfos in a tree; the first one refers to all others in the end."""
    cache = SimulatedCache()
    for number in range(PATHS):
        below = range(FAN_OUT * number + 1, min(PATHS, FAN_OUT * number + FAN_OUT + 1))
        info = NarInfo(
            path=store_path(f"path-number-{number}-1.0"),
            nar_hash=sha256(b"%d" % number),
            nar_size=1000,
            file_size=500,
            url=f"nar/{number}.nar.xz",
            compression="xz",
            references=tuple(sorted(store_path(f"path-number-{n}-1.0") for n in below)),
        )
        cache.objects[cache.narinfo_name(info.path)] = info.render()
    return cache


def test_a_walk_takes_a_kilobyte_a_path(tmp_path: Path) -> None:
    cache = wide_cache()
    root = store_path("path-number-0-1.0")
    with LocalStore(tmp_path) as store:
        tracemalloc.start()
        try:
            report = fetch(store, cache, [root], policy=TrustPolicy(check=False), dry_run=True)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert len(report.paths) == PATHS
    assert peak < PATHS * KIB


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[None]:
    """A file system of `size` bytes at `place`, while the block lasts."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    place.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={size}", "none", str(place)]
    if subprocess.run(["mount", *options], check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(tmp_path: Path) -> None:
    cache = SimulatedCache()
    small = cache.add("small", b"data")
    large = cache.add("large", bytes(2048 * KIB))
    top = cache.add("top", references=[small, large])
    place = tmp_path / "disk"
    with small_disk(place, 1024 * KIB):
        with LocalStore(place) as store:
            with pytest.raises(StoreError, match="no space left on device") as caught:
                fetch(store, cache, [top])
            assert caught.value.exit_code == 6
            assert caught.value.hint is not None
            assert caught.value.facts.get("path") in {large, None}  # or the database was first
        with LocalStore(place) as store:
            assert consistent(store)
            assert store.valid([large, top]) == set()
            assert names_in(store) == [path.base for path in store.all_valid()]


def store_error(root: Path, cache: SimulatedCache, top: StorePath) -> StoreError | None:
    try:
        with LocalStore(root) as store:
            fetch(store, cache, [top])
    except StoreError as error:
        return error
    return None


@pytest.mark.parametrize("free", [0, 4, 8, 16, 32, 64, 96, 128, 192, 256])
def test_a_disk_that_fills_up_at_any_place(tmp_path: Path, free: int) -> None:
    cache = SimulatedCache()
    paths = [cache.add(str(number), {b"a": bytes(20 * KIB)}) for number in range(5)]
    top = cache.add("top", references=paths)
    place = tmp_path / "disk"
    with small_disk(place, 2048 * KIB):
        filler = place / "filler"
        status = os.statvfs(place)
        filler.write_bytes(bytes(status.f_bavail * status.f_bsize - free * KIB))
        error = store_error(place / "root", cache, top)
        if error is not None:
            assert error.exit_code == 6
            assert "free some space" in (error.hint or "")
            full = ("no space left on device", "database or disk is full", "disk i/o error")
            assert any(text in str(error).lower() for text in full)
        filler.unlink()
        with LocalStore(place / "root") as store:
            assert consistent(store)
            fetch(store, cache, [top])
            assert set(store.all_valid()) == {*paths, top}
            assert consistent(store)
            assert names_in(store) == [path.base for path in store.all_valid()]
