"""A link in the place of a directory that a collector empties, or a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nixfetch.errors import StoreError
from nixfetch.store import LocalStore
from nixfetch.store.collect import collect
from nixfetch.store.layout import Layout
from nixfetch.store.opening import LinkedStoreError
from nixfetch.store.rebuild import rebuilding

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """What is none of our business."""
    other = tmp_path / "other"
    for name in ("etc", "00000000000000000000000000000000-x", "x.lock"):
        (other / name / "precious").mkdir(parents=True)
    return other


def names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    LocalStore(root).close()
    return root


def put_a_link(root: Path, place: str, other: Path) -> None:
    directory = root / place
    if directory.exists():
        directory.rename(root / "put-aside")
    directory.symlink_to(other)


@pytest.mark.parametrize("read_only", [False, True])
def test_the_store_directory(root: Path, other: Path, *, read_only: bool) -> None:
    before = names(other)
    put_a_link(root, "nix/store", other)
    with pytest.raises(LinkedStoreError, match="symbolic link"):
        LocalStore(root, read_only=read_only)
    assert names(other) == before


def test_a_rebuild(root: Path, other: Path) -> None:
    before = names(other)
    put_a_link(root, "nix/store", other)
    with pytest.raises(LinkedStoreError), rebuilding(Layout(root)):
        pass
    assert names(other) == before


@pytest.mark.parametrize(
    "place", ["nix/store/.links", "nix/var/nix/temproots", "nix/var/nixfetch/inflight"]
)
def test_what_lies_in_other_directories_is_not_swept(root: Path, other: Path, place: str) -> None:
    before = names(other)
    put_a_link(root, place, other)
    try:
        with LocalStore(root) as store:
            collect(store)
    except StoreError:  # refused: as good
        pass
    assert set(before) <= set(names(other))
