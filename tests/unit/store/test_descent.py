from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from nixfetch.store.descent import Descent
from unit.store.disk_trees import (
    descriptors,
    directory,
)

if TYPE_CHECKING:
    from pathlib import Path

LEVELS = 100


def same(fd: int, path: Path) -> bool:
    return os.path.samestat(os.fstat(fd), path.stat())


def test_down_and_up_with_few_descriptors(tmp_path: Path) -> None:
    (tmp_path / ("/".join("d" * LEVELS))).mkdir(parents=True)
    with directory(tmp_path) as start, Descent(start) as descent:
        before = len(descriptors())
        place = tmp_path
        for depth in range(1, LEVELS + 1):
            descent.enter(b"d")
            place /= "d"
            assert descent.depth == depth
            assert same(descent.fd, place)
        assert len(descriptors()) - before <= 25
        for _ in range(LEVELS):
            descent.leave()
            place = place.parent
            assert same(descent.fd, place)
        assert descent.depth == 0
        assert descent.fd == start


def test_down_again_after_coming_back_up(tmp_path: Path) -> None:
    (tmp_path / ("/".join("d" * LEVELS))).mkdir(parents=True)
    before = descriptors()
    with directory(tmp_path) as start, Descent(start) as descent:
        for _ in range(60):
            descent.enter("d")
        for _ in range(50):
            descent.leave()
        for _ in range(90):
            descent.enter("d")
        assert same(descent.fd, tmp_path / "/".join("d" * LEVELS))
    assert descriptors() == before


def test_links_and_files_are_no_directories(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/")
    (tmp_path / "file").write_bytes(b"")
    with directory(tmp_path) as start, Descent(start) as descent:
        for name in ("link", "file", "missing"):
            with pytest.raises(OSError, match=name):
                descent.enter(name)
        assert descent.depth == 0


def test_the_way_up_must_lead_where_it_came_from(tmp_path: Path) -> None:
    (tmp_path / "/".join("d" * LEVELS)).mkdir(parents=True)
    with directory(tmp_path) as start, Descent(start) as descent:
        for _ in range(LEVELS):
            descent.enter("d")
        (tmp_path / "/".join("d" * 20)).rename(tmp_path / "elsewhere")
        for _ in range(80):
            descent.leave()
        with pytest.raises(OSError, match="Stale file handle"):
            descent.leave()
