from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from nixfetch.store.trees import remove_tree
from simulated_cache import Link, Tree
from unit.store.disk_trees import (
    SAMPLE,
    directory,
    entries,
    nested,
    place_of_nobody,
    python,
    restore,
)

if TYPE_CHECKING:
    from pathlib import Path

REMOVE = """
import os, sys
from pathlib import Path
from nixfetch.store.trees import remove_tree
from unit.store.disk_trees import SAMPLE, become_nobody, directory, nested, restore
place = Path(sys.argv[1])
"""


def remove(parent: Path, name: bytes = b"tree") -> None:
    with directory(parent) as fd:
        remove_tree(fd, name)


@pytest.mark.parametrize(
    "tree",
    [b"data", Link(b"nowhere"), {}, SAMPLE, nested(200), {b"%d" % n: b"" for n in range(3000)}],
    ids=["file", "link", "empty", "sample", "deep", "wide"],
)
def test_it_is_gone(tmp_path: Path, tree: Tree) -> None:
    restore(tmp_path, tree)
    (tmp_path / "other").write_bytes(b"")
    remove(tmp_path)
    assert entries(tmp_path) == ["other"]


def test_nothing_there_is_fine(tmp_path: Path) -> None:
    remove(tmp_path)


def test_pipes_go_too(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    os.mkfifo(tmp_path / "tree/fifo")
    remove(tmp_path)
    assert entries(tmp_path) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o500)
    (outside / "file").write_bytes(b"data")
    restore(tmp_path, {b"link": Link(b"../outside"), b"absolute": Link(os.fsencode(outside))})
    restore(tmp_path, Link(b"outside"), b"root")
    remove(tmp_path)
    remove(tmp_path, b"root")
    assert (outside / "file").read_bytes() == b"data"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o500


def test_an_ordinary_user_removes_what_is_read_only() -> None:
    code = (
        REMOVE
        + """
become_nobody()
restore(place, SAMPLE)
restore(place, nested(200), b"deep")
(place / "hidden/below").mkdir(parents=True)
(place / "hidden/below").chmod(0)
(place / "hidden").chmod(0)
with directory(place) as fd:
    for name in os.listdir(place):
        remove_tree(fd, name.encode())
print(os.listdir(place))
"""
    )
    with place_of_nobody() as place:
        assert python(code, place) == "[]\n"


def test_what_an_ordinary_user_may_not_remove_is_an_error() -> None:
    code = (
        REMOVE
        + """
become_nobody()
(place / "tree").touch()
place.chmod(0o500)
with directory(place) as fd:
    try:
        remove_tree(fd, b"tree")
    except PermissionError:
        print(os.listdir(place))
"""
    )
    with place_of_nobody() as place:
        assert python(code, place) == "['tree']\n"


def test_few_descriptors(tmp_path: Path) -> None:
    code = (
        REMOVE
        + """
import resource
restore(place, nested(200))
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
with directory(place) as fd:
    remove_tree(fd, b"tree")
"""
    )
    python(code, tmp_path)
    assert entries(tmp_path) == []
