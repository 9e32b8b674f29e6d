from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from simulated_cache import store_path
from snapshotter import contents
from snapshotter.contents import store_paths
from snapshotter.errors import InternalError, InvalidArgumentError
from unit.store.disk_trees import descriptors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

A, B, C = map(store_path, "abc")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The store of a layer that lies in `tmp_path`."""
    store = tmp_path / "nix/store"
    store.mkdir(parents=True)
    return store


def test_empty_directories_and_files(tmp_path: Path, store: Path) -> None:
    (store / B.base).mkdir(mode=0o755)
    (store / A.base).touch(mode=0o555)
    (store / C.base).mkdir()
    (tmp_path / "bin").symlink_to(f"/nix/store/{A.base}/bin")
    before = descriptors()
    assert store_paths(tmp_path) == tuple(sorted([A, B, C]))
    assert descriptors() == before


def test_no_store(tmp_path: Path) -> None:
    assert store_paths(tmp_path) == ()
    (tmp_path / "nix").mkdir()
    assert store_paths(tmp_path) == ()
    (tmp_path / "nix/store").mkdir()
    assert store_paths(tmp_path) == ()


ODDITIES: dict[str, Callable[[Path], object]] = {
    "a link": lambda place: place.symlink_to("/root"),
    "a link to an empty directory": lambda place: place.symlink_to("/nix/store"),
    "a pipe": os.mkfifo,
    "a file with something in it": lambda place: place.write_text("x"),
    "a directory with something in it": lambda place: (place / "bin").mkdir(parents=True),
    "another name": lambda place: place.with_name("hello").mkdir(),
    "links of a store": lambda place: place.with_name(".links").mkdir(),
    "a bad hash part": lambda place: place.with_name("e" * 32 + "-x").mkdir(),
    "a hidden one": lambda place: place.with_name(f"{B.hash_part}-..").mkdir(),
    "a name of bytes": lambda place: os.mkdir(os.fsencode(place) + b"\xff"),  # noqa: PTH102
}


@pytest.mark.parametrize("oddity", ODDITIES)
def test_anything_else_means_an_ordinary_layer(tmp_path: Path, store: Path, oddity: str) -> None:
    (store / A.base).mkdir()
    ODDITIES[oddity](store / B.base)
    assert store_paths(tmp_path) == ()


@pytest.mark.parametrize("place", ["nix", "nix/store"])
def test_no_link_is_followed(tmp_path: Path, place: str) -> None:
    outside = tmp_path / "outside"
    (outside / "store" / A.base).mkdir(parents=True)
    (outside / A.base).mkdir()
    layer = tmp_path / "layer"
    (layer / place).parent.mkdir(parents=True)
    (layer / place).symlink_to(outside)
    assert store_paths(layer) == ()
    (layer / place).unlink()
    (layer / place).write_text("a file")
    assert store_paths(layer) == ()


def test_more_than_may_be(tmp_path: Path, store: Path) -> None:
    for number in range(12):
        (store / store_path(f"p{number}").base).mkdir()
    assert len(store_paths(tmp_path, most=12)) == 12
    with pytest.raises(InvalidArgumentError, match="too many"):
        store_paths(tmp_path, most=11)
    (store / A.base).write_text("an ordinary one may have as many as it likes")
    assert contents.store_paths(tmp_path) == ()


def test_a_layer_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InternalError):
        store_paths(tmp_path / "none")
