from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from nixfetch.store.metadata import Flaw, flaws, make_canonical
from simulated_cache import Link
from unit.store.disk_trees import NOBODY, SAMPLE, directory, nested, read_tree, restore

if TYPE_CHECKING:
    from pathlib import Path


def found(parent: Path) -> set[Flaw]:
    with directory(parent) as fd:
        return set(flaws(fd, b"tree"))


def mend(parent: Path) -> int:
    with directory(parent) as fd:
        return make_canonical(fd, b"tree")


def test_what_we_unpack_is_canonical(memory_path: Path) -> None:
    restore(memory_path, SAMPLE)
    assert found(memory_path) == set()
    assert mend(memory_path) == 0


def test_modes_and_times(memory_path: Path) -> None:
    tree = restore(memory_path, SAMPLE)
    tree.chmod(0o755)
    (tree / "bin/run").chmod(0o4555)
    (tree / "large").chmod(0o444)
    (tree / "empty").chmod(0o644)
    (tree / "empty-program").chmod(0o700)
    os.utime(tree / "large", (1, 2))
    os.utime(tree / "outward", (3, 3), follow_symlinks=False)
    assert found(memory_path) == {
        Flaw(b"", "mode 0755"),
        Flaw(b"bin/run", "mode 4555"),
        Flaw(b"empty", "mode 0644"),
        Flaw(b"empty-program", "mode 0700"),
        Flaw(b"large", "mtime 2"),
        Flaw(b"outward", "mtime 3"),
    }
    assert mend(memory_path) == 6
    assert found(memory_path) == set()
    assert read_tree(tree) == SAMPLE


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_owners(memory_path: Path) -> None:
    tree = restore(memory_path, SAMPLE)
    os.chown(tree / "large", NOBODY, NOBODY)
    os.chown(tree / "outward", NOBODY, NOBODY, follow_symlinks=False)
    assert found(memory_path) == {
        Flaw(b"large", f"owner {NOBODY}"),
        Flaw(b"outward", f"owner {NOBODY}"),
    }
    assert mend(memory_path) == 2
    assert found(memory_path) == set()
    # Whoever owns the store may own what is in it.
    os.chown(tree / "large", NOBODY, NOBODY)
    os.chown(memory_path, NOBODY, NOBODY)
    assert found(memory_path) == set()


def test_deep_trees_and_roots_that_are_none(memory_path: Path) -> None:
    restore(memory_path, nested(200))
    assert found(memory_path) == set()
    (memory_path / "more").mkdir()
    link = restore(memory_path / "more", Link(b"nowhere"))
    os.utime(link, (5, 5), follow_symlinks=False)
    assert found(memory_path / "more") == {Flaw(b"", "mtime 5")}
    assert mend(memory_path / "more") == 1


def test_nothing_there(memory_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        found(memory_path)
