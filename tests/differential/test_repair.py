"""What we find and repair, judged by real Nix: stores that we made and stores that it made."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from command import Raw, nixfetch
from filled_store import damage
from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.fetch import fetch_closure
from nixfetch.formats.contentaddress import Method
from nixfetch.store import LocalStore
from nixfetch.store.trees import remove_tree
from real_nix import SYSTEMS, RealNix, real_nix
from simulated_cache import KEY, POLICY, Executable, Link, SimulatedCache
from unit.store.disk_trees import directory, read_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath
    from simulated_cache import Tree

pytestmark = pytest.mark.differential

PATHS = 12
QUIET = {
    "reading the Nix store...",
    "checking path existence...",
    "checking hashes...",
    "checking link hashes...",
    "checking store hashes...",
}


class Place:
    """A cache that real Nix can read as well, and a store that was filled from it."""

    def __init__(self, nix: RealNix, made_by: str) -> None:
        self.nix, self.root = nix, nix.place / "store"
        self.cache = SimulatedCache()
        below: list[StorePath] = []
        for number in range(PATHS):
            text = b"%d, after %s" % (number, b" ".join(str(path).encode() for path in below))
            tree: Tree = {
                b"bin": {b"run": Executable(b"#!/bin/sh\n%d" % number)},
                b"common": {str(n).encode(): b"common %d\n" % n for n in range(8)},
                b"own": {str(n).encode(): b"%d of %d\n" % (n, number) for n in range(12)},
                b"link": Link(b"bin/run"),
                b"text": text,
            }
            references = below if number % 3 else []
            ca = Method.RECURSIVE if number % 4 == 1 else None
            if number % 3 == 0:
                tree[b"text"] = b""  # type: ignore[index] # a dictionary, right above
            path = self.cache.add(f"path-{number}", tree, references=references, ca=ca)
            below = [*below[-1:], path]
        self.file = self.cache.add("file", b"a root that is a file\n", ca=Method.FLAT)
        self.link = self.cache.add("link", Link(b"/nowhere"))
        self.top = self.cache.add(
            "top", {b"f": b"top"}, references=[*self.cache.infos], compression="xz"
        )
        self.cache.dump(nix.place / "cache")
        self.all = sorted(self.cache.infos)
        if made_by == "us":
            with (
                CacheGroup([BinaryCache(self.cache)]) as caches,
                LocalStore(self.root) as store,
            ):
                fetch_closure([self.top], caches=caches, policy=POLICY, store=store, jobs=1)
        else:
            source = f"file://{nix.inside(nix.place / 'cache')}"
            nix.run(
                *("nix", "copy", "--from", source, "--to", self.root, str(self.top)),
                settings={"trusted-public-keys": str(KEY.public())},
            )
            nix.run("nix-store", "--store", self.root, "--optimise")
        self.before = self.trees()

    def on_disk(self, path: StorePath) -> Path:
        return self.root / "nix/store" / path.base

    def trees(self) -> dict[str, Tree]:
        return {path.base: read_tree(self.on_disk(path)) for path in self.all}

    def files(self) -> list[Path]:
        """One name of each file that is not a link."""
        found = {
            file.lstat().st_ino: file
            for path in self.all
            for file in [self.on_disk(path), *self.on_disk(path).rglob("*")]
            if file.is_file() and not file.is_symlink()
        }
        return list(found.values())

    def command(self, *words: str) -> list[str]:
        source = ["--from", (self.nix.place / "cache").as_uri()]
        key = ["--trusted-key", str(KEY.public())]
        return ["verify", "--store", str(self.root), *source, *key, *words]

    def verify(self, *words: str) -> Raw:
        return nixfetch(*self.command(*words))

    def nix_finds(self) -> set[str]:
        """What real Nix says is wrong."""
        done = self.nix.run(
            "nix-store", "--store", self.root, "--verify", "--check-contents", check=False
        )
        return set(done.stderr.decode().splitlines()) - QUIET

    def nix_finds_paths(self) -> set[str]:
        text = " ".join(self.nix_finds())
        return {path.base for path in self.all if f"'{path}' was modified!" in text}

    def is_whole(self) -> bool:
        names = {entry.name for entry in (self.root / "nix/store").iterdir()} - {".links"}
        return (
            self.verify("--all") == Raw(0, b"", "")
            and self.trees() == self.before
            and names == {path.base for path in self.all}
            and self.nix_finds() == set()
        )


@pytest.fixture(params=SYSTEMS)
def nix(request: pytest.FixtureRequest) -> Iterator[RealNix]:
    with real_nix(request.param) as nix:
        yield nix


@pytest.fixture(params=["us", "nix"])
def place(request: pytest.FixtureRequest, nix: RealNix) -> Place:
    place = Place(nix, request.param)
    assert place.is_whole()
    return place


def flip(file: Path, chooser: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[chooser.randrange(len(data))] ^= 1 << chooser.randrange(8)
    damage(file, bytes(data))


def bad(ran: Raw) -> set[str]:
    lines = ran.out.decode().splitlines()
    return {
        line.partition(":")[0].removeprefix("/nix/store/")
        for line in lines
        if "content is not what was registered" in line
    }


def test_a_hundred_flipped_bytes(place: Place) -> None:
    chooser = random.Random(1)
    files = [file for file in place.files() if file.stat().st_size]
    shared = [file for file in files if file.stat().st_nlink > 2]
    assert len(shared) >= 8
    chosen = {*shared[:4], *chooser.sample([f for f in files if f not in shared], 96)}
    assert len(chosen) == 100
    for file in chosen:
        flip(file, chooser)
    found = place.verify("--all")
    assert found.code == 4
    assert bad(found) == place.nix_finds_paths()
    assert "100 bad files in .links" in found.err
    # One at a time: two that unpack the same new content at once keep both.
    repaired = place.verify("--all", "--repair", "--jobs", "1")
    assert repaired.code == 0
    assert repaired.out.count(b": repaired from ") == len(bad(found))
    assert place.is_whole()
    optimised = place.nix.run("nix-store", "--store", place.root, "--optimise", "-vv")
    assert b"by hard-linking 0 files" in optimised.stderr


def forget(place: Place) -> None:
    for path in (place.all[0], place.file, place.link):
        with directory(place.root / "nix/store") as fd:
            remove_tree(fd, path.base.encode())


def truncate(place: Place) -> None:
    for file in place.files()[::7]:
        damage(file, file.read_bytes()[:-1])


def confuse(place: Place) -> None:
    """One kind in the place of another."""
    tree = next(path for path in place.all if path.name == "path-3")
    folder = place.on_disk(tree)
    folder.chmod(0o755)
    (folder / "link").unlink()
    (folder / "link").write_bytes(b"bin/run")
    shutil.rmtree(folder / "common")
    (folder / "common").symlink_to("own")
    folder.chmod(0o555)
    place.on_disk(place.file).unlink()
    place.on_disk(place.file).symlink_to("elsewhere")
    place.on_disk(place.link).unlink()
    place.on_disk(place.link).write_bytes(b"")


def swap_x(place: Place) -> None:
    for path in place.all[:3]:
        for file in place.on_disk(path).rglob("run"):
            file.chmod(0o444)


def add(place: Place) -> None:
    tree = next(path for path in place.all if path.name == "path-3")
    place.on_disk(tree).chmod(0o755)
    (place.on_disk(tree) / "more").mkdir()


@pytest.mark.parametrize("change", [forget, truncate, confuse, swap_x, add])
def test_what_else_can_happen(place: Place, change: Callable[[Place], None]) -> None:
    change(place)
    assert place.verify("--all").code == 4
    if change is not forget:  # it drops the rows of what is lost
        assert place.nix_finds()
    assert place.verify("--all", "--repair").code == 0
    assert place.is_whole()


def test_metadata(place: Place) -> None:
    tree = next(path for path in place.all if path.name == "path-3")
    for file in [place.on_disk(tree), *place.on_disk(tree).rglob("*")]:
        if not file.is_symlink():
            file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
            os.utime(file, (7, 7))
    found = place.verify("--all")
    assert found.code == 0
    assert found.err.count("metadata is not canonical") >= 1
    assert place.nix_finds() == set()  # Nix does not look
    assert place.verify("--all", "--repair").code == 0
    assert place.is_whole()


def test_leftovers_are_told_and_left(place: Place) -> None:
    extra = place.root / "nix/store" / f"{'0' * 32}-extra"
    extra.mkdir()
    found = place.verify("--all")
    assert (found.code, found.out) == (0, b"")
    assert extra.name in found.err
    place.verify("--all", "--repair")
    assert extra.exists()
    place.nix.run("nix-store", "--store", place.root, "--gc")
    assert not extra.exists()


def test_one_path_and_all_that_share_its_files(place: Place) -> None:
    tree = next(path for path in place.all if path.name == "path-3")
    file = place.on_disk(tree) / "common/3"
    assert file.stat().st_nlink == PATHS + 1
    damage(file, b"common E\n")
    assert len(place.nix_finds_paths()) == PATHS
    repaired = place.verify("--repair", str(tree))
    assert repaired.code == 0
    assert repaired.out.count(b": repaired from ") == PATHS
    assert place.is_whole()


def facts(place: Place) -> dict[str, dict[str, object]]:
    """What Nix says is registered, but for when."""
    known = place.nix.path_info(place.root, str(place.top))
    return {
        path: {name: value for name, value in entry.items() if name != "registrationTime"}
        for path, entry in known.items()
    }


def lose(place: Place) -> None:
    (place.root / "nix/var/nix/db/db.sqlite").unlink()


def cut(place: Place) -> None:
    database = place.root / "nix/var/nix/db/db.sqlite"
    os.truncate(database, database.stat().st_size - 5000)


def begin_anew(place: Place) -> None:
    """What Nix does with a store whose database is gone, and the note of its version."""
    lose(place)
    (place.root / "nix/var/nix/db/schema").unlink()
    place.nix.run("nix-store", "--store", place.root, "-q", "--size", str(place.top), check=False)
    assert (place.root / "nix/var/nix/db/db.sqlite").exists()


@pytest.mark.parametrize("change", [lose, cut, begin_anew])
def test_a_database_is_rebuilt(place: Place, change: Callable[[Place], None]) -> None:
    before = facts(place)
    assert len(before) == len(place.all)
    for suffix in ("-wal", "-shm"):
        (place.root / f"nix/var/nix/db/db.sqlite{suffix}").unlink(missing_ok=True)
    change(place)
    if change is not begin_anew:
        refused = place.verify("--all")
        assert refused.code == 6
        assert "nixfetch verify --rebuild-db" in refused.err
    rebuilt = place.verify("--rebuild-db")
    assert (rebuilt.code, rebuilt.out) == (0, b"")
    assert place.is_whole()
    assert facts(place) == before
    place.nix.run("nix-store", "--store", place.root, "--verify-path", str(place.top))


def test_nothing_is_deleted_on_the_way(place: Place) -> None:
    """Where no cache vouches for anything, everything stays, and the store stays closed."""
    lose(place)
    shutil.rmtree(place.nix.place / "cache")
    (place.nix.place / "cache").mkdir()
    rebuilt = place.verify("--rebuild-db", "--json")
    assert rebuilt.code == 4
    report = json.loads(rebuilt.out)
    proven = {path.removeprefix("/nix/store/") for path in report["recovered"]}
    assert all("-path-" in name for name in proven)
    assert place.trees() == place.before


def test_killed_at_any_time(nix: RealNix) -> None:
    place = Place(nix, "us")
    chooser = random.Random(2)
    environment = {**os.environ, "HOME": "/nowhere", "XDG_CONFIG_DIRS": "/nowhere"}
    command = [sys.executable, "-m", "nixfetch.cli", *place.command("--all", "--repair")]

    def spoil() -> dict[str, Tree]:
        for file in place.files()[::3]:
            if file.stat().st_size:
                flip(file, chooser)
        forget(place)
        return {
            path.base: read_tree(place.on_disk(path))
            for path in place.all
            if os.path.lexists(place.on_disk(path))
        }

    spoil()
    begin = time.monotonic()
    subprocess.run(command, check=True, env=environment, capture_output=True)
    duration = time.monotonic() - begin
    assert place.is_whole()
    ended, kills = 0, 5 if nix.enter else 20
    for _ in range(kills):
        old = spoil()
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(chooser.uniform(duration / 4, duration))
            process.kill()
        ended += process.returncode == 0
        for path in place.all:
            if os.path.lexists(place.on_disk(path)):
                here = read_tree(place.on_disk(path))
                assert here in (old.get(path.base), place.before[path.base])
            else:
                assert path.base not in old
        assert place.verify("--all", "--repair").code == 0
        assert place.is_whole()
    assert ended < kills


@pytest.mark.parametrize("call", ["renameat2", "unlinkat", "syncfs", "fsync", "linkat"])
def test_killed_at_a_system_call(nix: RealNix, call: str) -> None:
    if shutil.which("strace") is None:
        pytest.skip("there is no strace here")
    place = Place(nix, "us")
    environment = {**os.environ, "HOME": "/nowhere", "XDG_CONFIG_DIRS": "/nowhere"}
    for number in (1, 2, 5):
        for file in place.files()[::3]:
            if file.stat().st_size:
                flip(file, random.Random(number))
        old = place.trees()
        inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
        trace = ["strace", "-f", "-qq", "-o", os.devnull, *inject]
        subprocess.run(
            [*trace, sys.executable, "-m", "nixfetch.cli", *place.command("--all", "--repair")],
            env=environment,
            capture_output=True,
            check=False,
        )
        now = place.trees()
        assert all(now[name] in (old[name], place.before[name]) for name in now)
        assert place.verify("--all", "--repair").code == 0
        assert place.is_whole()
