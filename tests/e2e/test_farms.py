"""Farms as real overlays have them: what a container writes is its own, the store stays as it was.

Each overlay is mounted in a mount namespace that ends with the test's child.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import nixfetch
from nixfetch import LocalStore, StorePath
from node import Node
from simulated_cache import POLICY, Executable, Link, store_path
from snapshotter.farm import Farms

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount"),
    pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare here"),
]

APP, LIB, FILE, LINK, OTHER = map(store_path, ("app", "lib", "file", "link", "other"))
CLOSURE = (APP, LIB, FILE, LINK)


class Container:
    """A layer with places for store paths, and what lies above and below it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.node = Node(place)
        cache = self.node.cache
        cache.add("lib", {b"a": b"code", b"b": Link(b"a"), b"d": {b"e": b"f"}})
        cache.add("app", {b"bin": {b"run": Executable(b"#!/bin/sh\necho hello\n")}, b"a": b"code"})
        cache.add("file", b"words\n")
        cache.add("link", Link(b"/etc/hostname"))
        cache.add("other", b"of another tenant")
        with LocalStore(self.node.root) as store:
            self.node.fetch([*CLOSURE, OTHER], store=store, cancelled=lambda: False)
        self.layer, self.upper, self.work, self.root = (
            place / name for name in ("layer", "upper", "work", "merged")
        )
        for directory in (self.layer / "nix/store", self.layer / "etc", self.upper, self.work):
            directory.mkdir(parents=True)
        self.root.mkdir()
        (self.layer / "etc/hostname").write_text("container\n")
        for path in (APP, LIB, LINK):
            (self.layer / "nix/store" / path.base).mkdir()
        (self.layer / "nix/store" / FILE.base).touch()

    def farm(self, closure: Iterable[StorePath]) -> Path:
        with LocalStore(self.node.root) as store:
            return Farms(self.node.root / "nix/var/nixfetch/farms", store).get(list(closure))

    def run(self, farm: Path, script: str, *, read_only: bool = False) -> str:
        """What a shell prints that has the whole as `$R`, the store in it as `$S`."""
        options = f"lowerdir={farm}:{self.layer}"
        if not read_only:
            options += f",upperdir={self.upper},workdir={self.work}"
        command = (
            f"mount -t overlay overlay -o '{options}' '{self.root}'; "
            f"R='{self.root}'; S=$R/nix/store; cd $S; {script}"
        )
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-euc", command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def facts(self) -> dict[str, tuple[int, ...]]:
        """Of all that is in the store: what its files are, whoever links to them."""
        found: dict[str, tuple[int, ...]] = {}
        for parent, directories, files in os.walk(self.node.root / "nix/store"):
            for name in (*directories, *files):
                file = Path(parent, name)
                status = file.lstat()
                found[str(file)] = (
                    status.st_ino,
                    status.st_mode,
                    status.st_uid,
                    status.st_gid,
                    status.st_size,
                    status.st_nlink,
                    status.st_mtime_ns,
                )
        return found

    def is_intact(self) -> bool:
        """Whether all of the store hashes to what was signed."""
        with LocalStore(self.node.root, read_only=True) as store:
            verdicts = nixfetch.verify_paths(store, store.all_valid(), policy=POLICY)
        return len(verdicts) == 5 and all(verdict.is_good for verdict in verdicts)


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


def test_a_container_sees_its_closure_and_no_other_path(container: Container) -> None:
    farm = container.farm(CLOSURE)
    seen = container.run(farm, "ls -A; cat $R/etc/hostname").split()
    assert sorted(seen) == sorted([*(path.base for path in CLOSURE), "container"])


def test_it_can_run_and_read_what_is_there(container: Container) -> None:
    """A path that is a file is not hidden by its empty place, nor is one that is a link."""
    farm = container.farm(CLOSURE)
    script = f"sh {APP.base}/bin/run; cat {FILE.base} {LIB.base}/b; readlink {LINK.base}"
    assert container.run(farm, script).split() == ["hello", "words", "code/etc/hostname"]
    assert container.run(farm, script, read_only=True).split()[0] == "hello"


WRITES = f"""
echo evil >> {LIB.base}/a
echo evil > {APP.base}/bin/run
chmod 4777 {APP.base}/bin/run {FILE.base}
chown 1:1 {LIB.base}/d/e
touch {LIB.base}/d {FILE.base}
truncate -s 0 {APP.base}/a
rm {LIB.base}/b
ln {LIB.base}/d/e {LIB.base}/hard
mv {LIB.base}/d/e {LIB.base}/d/moved
mkdir {LIB.base}/new
rm -r {APP.base}/bin
ln -sf /root {LINK.base}
rm -rf {FILE.base}
mkdir {OTHER.base}
echo mine > {OTHER.base}/x
chmod 777 .
cat {LIB.base}/a
"""


def test_what_it_writes_is_its_own(container: Container) -> None:
    farm = container.farm(CLOSURE)
    before = container.facts()
    assert container.run(farm, WRITES).split() == ["codeevil"]
    assert container.facts() == before
    assert container.is_intact()
    upper = container.upper / "nix/store"
    assert (upper / LIB.base / "a").read_text() == "codeevil\n"
    assert (upper / OTHER.base / "x").read_text() == "mine\n"
    # The next container starts from what was signed.
    shutil.rmtree(container.upper)
    shutil.rmtree(container.work)
    container.upper.mkdir()
    container.work.mkdir()
    assert container.run(container.farm(CLOSURE), f"cat {LIB.base}/a {LIB.base}/d/e") == "codef"


def test_reading_leaves_no_trace_either(container: Container) -> None:
    farm = container.farm(CLOSURE)
    times = {file: Path(file).lstat().st_atime_ns for file in container.facts()}
    container.run(farm, f"cat {FILE.base} {LIB.base}/a > /dev/null; ls -R . > /dev/null")
    now = {file: Path(file).lstat().st_atime_ns for file in times if Path(file).is_file()}
    assert now == {file: times[file] for file in now}


def test_a_farm_of_links_alone_beside_binds(container: Container) -> None:
    """As for containers that get each path as a bind: a link can be none."""
    farm = container.farm([LINK])
    lib = container.node.on_disk(LIB)
    script = (
        f"mount --bind '{lib}' {LIB.base}; mount -o remount,bind,ro {LIB.base}; "
        f"readlink {LINK.base}; cat {LIB.base}/a; "
        f"! touch {LIB.base}/a 2> /dev/null"
    )
    assert container.run(farm, script) == "/etc/hostname\ncode"


def test_the_last_user_is_gone(container: Container) -> None:
    before = container.facts()
    farm = container.farm(CLOSURE)
    container.run(farm, WRITES)
    with LocalStore(container.node.root) as store:
        Farms(farm.parent, store).sweep([])
    assert not farm.exists()
    after = container.facts()
    links = {file: facts[5] for file, facts in after.items()}
    assert links == {file: facts[5] for file, facts in before.items()}
    assert container.is_intact()


def test_a_collector_takes_what_nothing_keeps_in_spite_of_a_farm(container: Container) -> None:
    """A farm is no root, and what it shares is freed when it goes."""
    farm = container.farm(CLOSURE)
    assert container.node.collect() == {"app", "lib", "file", "link", "other"}
    assert (farm / "nix/store" / FILE.base).read_text() == "words\n"


def test_a_file_that_has_as_many_names_as_it_can_have(tmp_path: Path) -> None:
    """As the empty file of a large store does: ext4 allows 65 000."""
    node = Node(tmp_path)
    path = node.cache.add("empty", {b"__init__.py": b"", b"other": b"x"})
    with LocalStore(node.root) as store:
        node.fetch([path], store=store, cancelled=lambda: False)
        names = tmp_path / "names"
        names.mkdir()
        crowded = node.on_disk(path) / "__init__.py"
        fd = os.open(names, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for number in range(70_000):
                os.link(crowded, str(number), dst_dir_fd=fd)
            pytest.fail("this file system allows any number of names")
        except OSError as error:
            assert error.errno == errno.EMLINK  # noqa: PT017 - after so many that worked
        finally:
            os.close(fd)
        farm = Farms(tmp_path / "farms", store).get([path]) / "nix/store" / path.base
    made, there = (farm / "__init__.py").stat(), crowded.stat()
    assert made.st_ino != there.st_ino
    assert (made.st_mode, made.st_size, made.st_mtime) == (there.st_mode, 0, there.st_mtime)
    assert (farm / "other").stat().st_ino == (node.on_disk(path) / "other").stat().st_ino
