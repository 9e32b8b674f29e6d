"""Stores of ordinary users, in memory, on overlays, and where two names may be one."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import places
from command import Ran
from crash import disks
from crash.subject import Closure, environ, is_sound, run
from crash.supervisor import SUPPORTED, Fault, watch
from nixfetch.store import LocalStore
from simulated_cache import SimulatedCache

if TYPE_CHECKING:
    from collections.abc import Iterator

    from real_nix import RealNix
    from simulated_cache import Tree

pytestmark = pytest.mark.crash

NOBODY = "65534"
IMAGE = 64 * 1024 * 1024  # bytes
READING = "-all,+dac_read_search"  # so that our program can be read wherever it lies


@pytest.fixture
def ordinary() -> list[str]:
    """What makes a command one of an ordinary user: no more rights to write than that has."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv")
    user = ["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]
    rights = [
        "--inh-caps",
        READING,
        "--ambient-caps",
        READING,
        "--bounding-set",
        READING,
    ]
    return ["setpriv", *user, *rights]


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that an ordinary user can reach and write to."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o777)
        yield Path(name)


def test_an_ordinary_user(
    flat: Closure, ordinary: list[str], open_to_all: Path, nix: RealNix
) -> None:
    store = open_to_all / "store"
    ran = run([*ordinary, *flat.command(store)])
    assert (ran.code, ran.errors) == (0, []), ran.err
    flat.is_fetched(store)
    is_sound(store, nix)


def test_an_ordinary_user_sweeps_what_was_killed(
    flat: Closure, ordinary: list[str], open_to_all: Path, nix: RealNix
) -> None:
    """Directories in a store may not be written to, not even by their owner."""
    store = open_to_all / "store"
    for _ in range(5):
        with subprocess.Popen(
            [*ordinary, *flat.command(store)],
            env=environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            while not _has_staging(store) and process.poll() is None:
                pass
            process.kill()
    ran = run([*ordinary, *flat.command(store)])
    assert (ran.code, ran.errors) == (0, []), ran.err
    flat.is_fetched(store)
    is_sound(store, nix)


def test_in_memory(flat: Closure, tmp_path: Path, nix: RealNix) -> None:
    disks.takes_root()
    with disks.mounted(tmp_path / "disk", "none", "tmpfs", "size=32m") as disk:
        assert flat.fetch(disk / "store").code == 0
        flat.is_fetched(disk / "store")
        is_sound(disk / "store", nix)


def test_over_a_store_that_cannot_be_changed(
    flat: Closure, small: Closure, tmp_path: Path, nix: RealNix
) -> None:
    """What is in the lower layer cannot be linked to, and its leftovers are still removed."""
    disks.takes_root()
    with disks.mounted(tmp_path / "disk", "none", "tmpfs", "size=64m") as disk:
        lower, upper, work = (disk / name for name in ("lower", "upper", "work"))
        for folder in (lower, upper, work):
            folder.mkdir()
        assert small.fetch(lower / "store").code == 0
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        with disks.mounted(tmp_path / "over", "overlay", "overlay", options) as over:
            store = over / "store"
            ran = flat.fetch(store)
            assert (ran.code, ran.errors) == (0, []), ran.err
            with LocalStore(store, read_only=True) as opened:
                valid = set(map(str, opened.all_valid()))
            assert valid == {*small.paths, *flat.paths}
            assert places.names(store / "nix/store") == sorted(Path(path).name for path in valid)
            is_sound(store, nix)
        small.is_fetched(lower / "store")


def test_on_a_disk_that_cannot_be_written(small: Closure, tmp_path: Path) -> None:
    """Who only reads is served; a fetch says why it writes where all is there already."""
    disks.takes_root()
    with disks.mounted(tmp_path / "disk", "none", "tmpfs", "size=64m") as disk:
        store = disk / "store"
        assert small.fetch(store).code == 0
        disks.call("mount", "-o", "remount,ro", disk)
        ran = small.fetch(store)
        assert (ran.code, len(ran.errors)) == (6, 1)
        assert ran.err.startswith(f"error: read-only file system: {store}/nix/")
        assert "hint: even where all is there already, whoever uses paths writes" in ran.err
        for verb, *more in (
            ("path-info", "--local", small.root),
            ("verify", "--all"),
            ("roots", "list"),
            ("gc", "--dry-run"),
            ("fetch", "--dry-run", small.root),
        ):
            ran = run(small.verb(store, verb, *more))
            assert (ran.code, ran.errors) == (0, []), ran.err


COLLISIONS: dict[str, Tree] = {
    "files": {b"Name": b"one", b"name": b"other"},
    "equal-files": {b"Name": b"same", b"name": b"same"},
    "directories": {b"Name": {b"a": b"one"}, b"name": {b"b": b"other"}},
}


@pytest.mark.parametrize("kind", COLLISIONS)
def test_two_names_that_are_one(kind: str, tmp_path: Path, nix: RealNix) -> None:
    cache = SimulatedCache()
    path = str(cache.add("both", COLLISIONS[kind]))
    cache.dump(tmp_path / "cache")
    both = Closure(tmp_path / "cache", path, (path,))
    with _folding(tmp_path) as folding:
        if folding is not None:
            store = folding / "store"
            ran = both.fetch(store)
        elif SUPPORTED:
            store = tmp_path / "store"
            ran = _as_if_folding(both, store, b"name")
        else:
            pytest.skip("this kernel cannot fold names, nor can it be pretended here")
        assert ran.code == 6, ran.err
        assert len(ran.errors) == 1
        assert "this file system takes two different names for one" in ran.errors[0]
        assert path in ran.errors[0]
        assert "file: name\n" in ran.err
        assert places.names(store / "nix/store") == []
        assert places.names(store / "nix/var/nixfetch/inflight") == []
        is_sound(store, nix)


@contextmanager
def _folding(folder: Path) -> Iterator[Path | None]:
    """A directory where upper and lower case are one; None where the kernel has none."""
    if os.geteuid() != 0 or not Path("/sys/fs/ext4/features/casefold").exists():
        yield None
        return
    image = folder / "image"
    disks.blank(image, IMAGE)
    disks.call("mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "casefold", image)
    with disks.on_image(image, folder / "mounted", "ext4") as mounted:
        folding = mounted / "folding"
        folding.mkdir()
        disks.call("chattr", "+F", folding)
        yield folding


def _as_if_folding(closure: Closure, store: Path, name: bytes) -> Ran:
    """Fetch, and have the call that makes `name` fail as it does where names are folded."""
    makes = frozenset({"openat", "mkdirat", "linkat"})
    clean = store.with_name("clean")
    command = closure.command(clean, "--jobs", "1")
    calls = watch(command, root=clean, calls=makes, environ=environ()).calls
    at = 1 + [call.path.endswith(f"/{os.fsdecode(name)}") for call in calls].index(True)
    command = closure.command(store, "--jobs", "1")
    fault = Fault(at, errno.EEXIST)
    watched = watch(command, root=store, calls=makes, fault=fault, environ=environ())
    assert watched.struck is not None
    assert watched.struck.path.endswith(f"/{os.fsdecode(name)}")
    return Ran(watched.code, watched.out, watched.err)


def _has_staging(store: Path) -> bool:
    try:
        return any("-nixfetch." in name for name in os.listdir(store / "nix/store"))  # noqa: PTH208
    except FileNotFoundError:
        return False
