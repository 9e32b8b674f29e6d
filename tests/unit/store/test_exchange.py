from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from nixfetch import kernel
from nixfetch.store.exchange import exchange
from simulated_cache import Link
from unit.store.disk_trees import SAMPLE, directory, entries, read_tree, restore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from simulated_cache import Tree

KINDS: list[Tree] = [b"file", Link(b"target"), SAMPLE]


def cannot(number: int, kind: type[OSError]) -> Callable[[int, bytes, bytes], None]:
    def swap(directory_fd: int, fresh: bytes, final: bytes) -> None:
        raise kind(number, os.strerror(number))

    return swap


@pytest.mark.parametrize("old", KINDS)
@pytest.mark.parametrize("new", KINDS)
def test_two_trees_change_places(memory_path: Path, old: Tree, new: Tree) -> None:
    restore(memory_path, old, b"final")
    restore(memory_path, new, b"fresh")
    with directory(memory_path) as fd:
        exchange(fd, b"fresh", b"final")
    assert read_tree(memory_path / "final") == new
    assert read_tree(memory_path / "fresh") == old


@pytest.mark.parametrize("new", KINDS)
def test_where_nothing_has_the_name(memory_path: Path, new: Tree) -> None:
    restore(memory_path, new, b"fresh")
    with directory(memory_path) as fd:
        exchange(fd, b"fresh", b"final")
    assert read_tree(memory_path / "final") == new
    assert entries(memory_path) == ["final"]


@pytest.mark.parametrize(
    "swap",
    [cannot(errno.EINVAL, kernel.UnsupportedError), cannot(errno.EXDEV, OSError)],
)
@pytest.mark.parametrize("new", KINDS)
def test_a_file_system_that_cannot(
    memory_path: Path, new: Tree, swap: Callable[[int, bytes, bytes], None]
) -> None:
    restore(memory_path, SAMPLE, b"final")
    restore(memory_path, new, b"fresh")
    with directory(memory_path) as fd:
        exchange(fd, b"fresh", b"final", swap=swap)
    assert read_tree(memory_path / "final") == new
    assert entries(memory_path) == ["final"]


def test_a_disk_that_refuses_leaves_both(memory_path: Path) -> None:
    restore(memory_path, b"old", b"final")
    restore(memory_path, b"new", b"fresh")
    with directory(memory_path) as fd, pytest.raises(OSError, match="Input/output"):
        exchange(fd, b"fresh", b"final", swap=cannot(errno.EIO, OSError))
    assert read_tree(memory_path / "final") == b"old"
    assert read_tree(memory_path / "fresh") == b"new"


def test_nothing_to_exchange(memory_path: Path) -> None:
    restore(memory_path, b"old", b"final")
    with directory(memory_path) as fd, pytest.raises(FileNotFoundError):
        exchange(fd, b"fresh", b"final")
    assert read_tree(memory_path / "final") == b"old"
