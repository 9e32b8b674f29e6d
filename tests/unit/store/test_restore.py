from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from nixfetch.formats.nar import Regular
from nixfetch.store.disk import DiskError
from nixfetch.store.restore import Restorer
from simulated_cache import Executable, Link, Tree
from unit.store.disk_trees import (
    ODD_NAMES,
    SAMPLE,
    descriptors,
    directory,
    entries,
    nested,
    place_of_nobody,
    python,
    read_tree,
    restore,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def everything(top: Path) -> list[Path]:
    return [top, *(Path(base) / name for base, ds, fs in os.walk(top) for name in ds + fs)]


@pytest.mark.parametrize(
    "tree",
    [b"", b"data", Executable(b"x"), Link(b"nowhere"), {}, SAMPLE],
    ids=["empty", "file", "program", "link", "directory", "sample"],
)
def test_what_is_restored_is_what_was_said(tmp_path: Path, tree: Tree) -> None:
    assert read_tree(restore(tmp_path, tree)) == tree
    assert entries(tmp_path) == ["tree"]


def test_modes_and_times_are_canonical(tmp_path: Path) -> None:
    top = restore(tmp_path, SAMPLE)
    assert mode(top) == mode(top / "none") == mode(top / "bin") == 0o555
    assert mode(top / "bin/run") == mode(top / "empty-program") == 0o555
    assert mode(top / "empty") == mode(top / "large") == 0o444
    assert {path.lstat().st_mtime_ns for path in everything(top)} == {1_000_000_000}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o377])
def test_the_umask_does_not_show(tmp_path: Path, umask: int) -> None:
    code = """
import os, sys
from pathlib import Path
from unit.store.disk_trees import restore
from simulated_cache import Executable
restore(Path(sys.argv[1]), {b"d": {}, b"f": b"data", b"p": Executable(b"data"), b"e": b""})
"""
    python(code, tmp_path, umask=umask)
    top = tmp_path / "tree"
    assert [mode(top / name) for name in (".", "d", "f", "p", "e")] == [
        0o555,
        0o555,
        0o444,
        0o555,
        0o444,
    ]
    assert {path.lstat().st_mtime_ns for path in everything(top)} == {1_000_000_000}


def test_an_ordinary_user_can_restore() -> None:
    code = """
import sys
from pathlib import Path
from unit.store.disk_trees import SAMPLE, become_nobody, read_tree, restore
become_nobody()
assert read_tree(restore(Path(sys.argv[1]), SAMPLE)) == SAMPLE
"""
    with place_of_nobody() as place:
        python(code, place)


def test_a_deep_tree_takes_few_descriptors(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from unit.store.disk_trees import nested, restore
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
restore(Path(sys.argv[1]), nested(200))
"""
    python(code, tmp_path)
    top = tmp_path / "tree"
    assert read_tree(top) == nested(200)
    assert {mode(path) for path in everything(top)} == {0o555, 0o444}


@pytest.mark.parametrize("taken", [b"file", {}, Link(b"/")], ids=["file", "directory", "link"])
@pytest.mark.parametrize("tree", [b"data", {b"x": b""}, Link(b"y")], ids=["file", "tree", "link"])
def test_a_taken_name_is_refused(tmp_path: Path, taken: Tree, tree: Tree) -> None:
    restore(tmp_path, taken)
    with pytest.raises(DiskError, match="file exists") as caught:
        restore(tmp_path, tree)
    assert caught.value.facts == {"file": "tree", "errno": "EEXIST"}
    assert read_tree(tmp_path / "tree") == taken


def test_a_link_that_takes_the_name_of_the_root_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "tree").symlink_to("outside")
    with pytest.raises(DiskError):
        restore(tmp_path, {b"x": b"data"})
    assert entries(tmp_path / "outside") == []


def test_a_link_between_mkdir_and_open_is_not_followed(tmp_path: Path) -> None:
    # Nobody else writes there; were it so, it must still not lead out.
    (tmp_path / "outside").mkdir()
    with directory(tmp_path) as fd:
        restorer = Restorer(fd, b"outside/../escaped")
        with pytest.raises(DiskError):
            restorer.apply(Regular(b"../missing/x", 0, executable=False, offset=0))
        restorer.close()
    assert entries(tmp_path) == ["outside"]


def test_a_name_that_is_too_long_says_which(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="file name too long") as caught:
        restore(tmp_path, {b"n" * 256: b""})
    assert caught.value.facts["file"] == "n" * 256


def test_closing_halfway_leaves_no_descriptor(tmp_path: Path) -> None:
    before = descriptors()
    with directory(tmp_path) as fd:
        restorer = Restorer(fd, b"tree")
        restorer.apply(Regular(b"", 5, executable=False, offset=0))
        restorer.close()
        restorer.close()
    assert descriptors() == before


def test_odd_names_are_bytes(tmp_path: Path) -> None:
    top = restore(tmp_path, dict.fromkeys(ODD_NAMES, b""))
    assert set(map(os.fsencode, entries(top))) == set(ODD_NAMES)
