from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from filled_store import damage
from nixfetch.store.inodes import Inode, bad_inodes, has_any
from simulated_cache import Executable, Link
from unit.store.disk_trees import SAMPLE, directory, place_of_nobody, python, restore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def inode(file: Path) -> Inode:
    status = file.lstat()
    return status.st_dev, status.st_ino


def share(file: Path, *names: str) -> None:
    """Give a file more names, outside of its tree."""
    top = next(parent for parent in file.parents if parent.name == "bad").parent
    for name in names:
        os.link(file, top / name, follow_symlinks=False)


@pytest.fixture
def trees(memory_path: Path) -> Path:
    restore(memory_path, SAMPLE, b"bad")
    restore(memory_path, SAMPLE, b"good")
    return memory_path


def compare(place: Path) -> dict[Inode, int]:
    with directory(place) as fd:
        return bad_inodes(fd, b"bad", b"good")


def test_equal_trees(trees: Path) -> None:
    for name in ("large", "empty", "outward", "bin/run"):
        share(trees / "bad" / name, f"more-{name.replace('/', '-')}")
    assert compare(trees) == {}


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    damage(file, bytes(data))


def cut(file: Path) -> None:
    damage(file, file.read_bytes()[:-1])


def run_it(file: Path) -> None:
    file.chmod(0o555)


@pytest.mark.parametrize("change", [flip, cut, run_it])
def test_bad_files_that_are_shared(trees: Path, change: Callable[[Path], None]) -> None:
    file = trees / "bad/large"
    change(file)
    assert compare(trees) == {}
    share(file, "one", "two")
    assert compare(trees) == {inode(file): 2}


def test_names_within_the_tree_are_not_elsewhere(trees: Path) -> None:
    bad = trees / "bad"
    bad.chmod(0o755)
    (bad / "empty").unlink()
    flip(bad / "large")
    os.link(bad / "large", bad / "empty")
    assert compare(trees) == {inode(bad / "large"): 0}
    share(bad / "large", "more")
    assert compare(trees) == {inode(bad / "large"): 1}


def test_links_and_kinds(trees: Path) -> None:
    bad = trees / "bad"
    bad.chmod(0o755)
    for name in ("outward", "large", "none"):
        if name == "none":
            (bad / name).rmdir()
        else:
            (bad / name).unlink()
    (bad / "outward").symlink_to("../../../etc/shadow")
    (bad / "large").symlink_to("/")
    (bad / "none").write_bytes(b"")
    for name in ("outward", "large", "none"):
        share(bad / name, f"more-{name}")
    assert set(compare(trees)) == {inode(bad / name) for name in ("outward", "large", "none")}


def test_what_has_no_counterpart_is_nobodys(trees: Path) -> None:
    bad = trees / "bad"
    bad.chmod(0o755)
    (bad / "extra").write_bytes(b"")
    (bad / "empty").unlink()
    (bad / "empty").mkdir()
    (bad / "empty/file").write_bytes(b"")
    share(bad / "extra", "one")
    share(bad / "empty/file", "two")
    assert compare(trees) == {}


def test_files_as_roots_and_nothing_at_all(memory_path: Path) -> None:
    restore(memory_path, Executable(b"run"), b"good")
    assert compare(memory_path) == {}
    restore(memory_path, Executable(b"ran"), b"bad")
    os.link(memory_path / "bad", memory_path / "more")
    assert compare(memory_path) == {inode(memory_path / "bad"): 1}


def test_what_cannot_be_read_is_not_the_same() -> None:
    code = """
import os, sys
from pathlib import Path
from nixfetch.store.inodes import bad_inodes
from unit.store.disk_trees import become_nobody, directory, restore
become_nobody()
place = Path(sys.argv[1])
restore(place, b"x", b"good")
bad = restore(place, b"x", b"bad")
os.link(bad, place / "more")
bad.chmod(0)
with directory(place) as fd:
    print(list(bad_inodes(fd, b"bad", b"good").values()))
"""
    with place_of_nobody() as place:
        assert python(code, place) == "[1]\n"


def test_has_any(trees: Path) -> None:
    with directory(trees) as fd:
        assert has_any(fd, b"bad", {inode(trees / "bad/bin/run")})
        assert not has_any(fd, b"bad", {inode(trees / "good/bin/run")})
        assert not has_any(fd, b"bad", set())
        with pytest.raises(FileNotFoundError):
            has_any(fd, b"none", set())


def test_a_link_target(trees: Path) -> None:
    file = restore(trees, Link(b"x"), b"third")
    with directory(trees) as fd:
        assert has_any(fd, b"third", {inode(file)})
