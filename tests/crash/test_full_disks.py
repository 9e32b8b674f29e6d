"""No room on the disk, no inodes, no descriptors: one clear line, and all room given back."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

import places
from crash import disks
from crash.subject import FULL, Closure, run, tiny_closure, wide_closure
from nixfetch.errors import StoreError
from nixfetch.store import LocalStore

if TYPE_CHECKING:
    from pathlib import Path

    from command import Ran
    from real_nix import RealNix

pytestmark = pytest.mark.crash

MIB = 1024 * 1024
SIZES = range(1, 33) if FULL else (1, 4, 9, 16)  # MiB
DATABASE_SIZES = range(0, 1025, 32) if FULL else (32, 96, 256)  # KiB
INODES = range(40, 420, 20) if FULL else (60, 200)
TINY = range(150, 301, 5) if FULL else (170, 200, 230, 270)  # KiB
TRIES = 4 if FULL else 2  # on each: threads decide what the disk is full at
TOO_SMALL = (4, 16, 32, 64, 100, 120)  # KiB, for a database
DESCRIPTORS = range(8, 65) if FULL else (64, 32, 24, 16)
ALLOWED = MIB  # bytes that a failure may leave: a larger database
SMALL_DATABASE = 88 * 1024  # bytes: with tables, empty
AMPLE = "size=64m,nr_inodes=20k"


@pytest.fixture(scope="session")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Closure:
    """Files of some bytes: each takes 4 KiB on a disk, and much less in the archive."""
    return wide_closure(tmp_path_factory.mktemp("crowded"), files=5_000 if FULL else 2_000, paths=3)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Closure:
    return tiny_closure(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("size", SIZES)
def test_no_room(size: int, crowded: Closure, tmp_path: Path, nix: RealNix) -> None:
    disks.takes_root()
    with disks.mounted(tmp_path / "disk", "none", "tmpfs", f"size={size}m") as disk:
        before = _with_an_empty_store(disk)
        ran = crowded.fetch(disk / "store")
        if ran.code:
            _says_what_it_is(ran)
            assert _used(disk) <= before + ALLOWED
        disks.call("mount", "-o", f"remount,{AMPLE}", disk)
        crowded.recovers(disk / "store", nix)


@pytest.mark.parametrize("count", INODES)
def test_no_inodes(count: int, crowded: Closure, tmp_path: Path, nix: RealNix) -> None:
    disks.takes_root()
    options = f"size=64m,nr_inodes={count}"
    with disks.mounted(tmp_path / "disk", "none", "tmpfs", options) as disk:
        before = _with_an_empty_store(disk)
        ran = crowded.fetch(disk / "store")
        assert ran.code
        _says_what_it_is(ran)
        assert _used(disk) <= before + ALLOWED
        disks.call("mount", "-o", f"remount,{AMPLE}", disk)
        crowded.recovers(disk / "store", nix)


@pytest.mark.parametrize("size", DATABASE_SIZES)
def test_no_room_for_the_database(
    size: int, flat: Closure, store: Path, tmp_path: Path, nix: RealNix
) -> None:
    disks.takes_root()
    database = store / "nix/var/nix/db"
    database.mkdir(parents=True)
    with disks.mounted(database, "none", "tmpfs", f"size={max(size, 4)}k"):
        ran = flat.fetch(store)
        if ran.code:
            _says_what_it_is(ran)
        disks.call("mount", "-o", f"remount,{AMPLE}", database)
        flat.recovers(store, nix)


@pytest.mark.parametrize("size", TINY)
def test_no_room_to_say_that_it_is_valid(
    size: int, tiny: Closure, tmp_path: Path, nix: RealNix
) -> None:
    """The last thing that a path needs is a row. Who fails at it keeps nothing on the disk."""
    disks.takes_root()
    for _ in range(TRIES):
        with disks.mounted(tmp_path / "disk", "none", "tmpfs", f"size={size}k") as disk:
            ran = tiny.fetch(disk / "store")
            if ran.code:
                _says_what_it_is(ran)
            assert "warning" not in ran.err
            with LocalStore(disk / "store", read_only=True) as store:
                valid = [path.base for path in store.all_valid()]
            assert places.names(disk / "store/nix/store") == valid
            assert _used(disk) - _blocks(disk / "store/nix/store") <= SMALL_DATABASE
            disks.call("mount", "-o", f"remount,{AMPLE}", disk)
            tiny.recovers(disk / "store", nix)


@pytest.mark.parametrize("size", TOO_SMALL)
def test_no_room_to_make_the_database(
    size: int, small: Closure, tmp_path: Path, nix: RealNix
) -> None:
    disks.takes_root()
    with disks.mounted(tmp_path / "disk", "none", "tmpfs", f"size={size}k") as disk:
        store = disk / "store"
        rebuild = small.verb(store, "verify", "--rebuild-db")
        reading = [
            small.verb(store, "verify", "--all"),
            small.verb(store, "path-info", "--local", small.root),
            small.verb(store, "roots", "list"),
        ]
        for command in (small.command(store), *reading, rebuild, small.command(store)):
            ran = run(command)
            assert "rebuild-db" not in ran.err
            if ran.code:  # 3: there is a store, and the path is not in it
                assert ran.code in {3, 6}, ran.err
                assert (
                    "no space left on device" in ran.err
                    or "no store here" in ran.err
                    or (ran.code == 3)
                )
        disks.call("mount", "-o", f"remount,{AMPLE}", disk)
        for command in reading:
            assert "rebuild-db" not in run(command).err
        small.recovers(store, nix)


@pytest.mark.parametrize("count", DESCRIPTORS)
def test_few_descriptors(count: int, flat: Closure, store: Path, nix: RealNix) -> None:
    if shutil.which("prlimit") is None:
        pytest.skip("no prlimit")
    limit = f"--nofile={count}:{count}"
    ran = run(["prlimit", limit, *flat.command(store, "--jobs", "16")])
    if ran.code:
        assert ran.code > 0
        assert len(ran.errors) == 1, ran.err
        assert "too many open files" in ran.err.lower() or "unable to open" in ran.err
    else:
        flat.is_fetched(store)
    flat.recovers(store, nix)


def _blocks(directory: Path) -> int:
    """Bytes of all files below a directory."""
    found = (file.lstat() for file in directory.rglob("*"))
    blocks = {status.st_ino: status.st_blocks for status in found}
    return sum(blocks.values()) * 512


def _says_what_it_is(ran: Ran) -> None:
    assert ran.code == 6, ran.err
    assert len(ran.errors) == 1, ran.err
    assert "no space left" in ran.err or "the disk is full" in ran.err


def _with_an_empty_store(disk: Path) -> int:
    """Make a store, if there is room for one; the bytes used then."""
    with suppress(StoreError), LocalStore(disk / "store"):
        pass
    return _used(disk)


def _used(disk: Path) -> int:
    """Bytes in use, but for what a store sets aside for the day on which its disk is full."""
    status = os.statvfs(disk)
    reserve = disk / "store/nix/var/nix/db/reserved"
    set_aside = reserve.stat().st_blocks * 512 if reserve.exists() else 0
    return (status.f_blocks - status.f_bfree) * status.f_frsize - set_aside
