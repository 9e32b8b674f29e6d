from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from snapshotter.errors import PreconditionError
from snapshotter.layers import BLOCK, LayerError, Layers
from snapshotter.lifecycle import Kind
from snapshotter.owned import NotOursError


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    return Layers(tmp_path)


def mode(path: Path | str) -> int:
    return stat.S_IMODE(Path(path).lstat().st_mode)


def test_an_active_snapshot_has_an_upper_and_a_work_directory(layers: Layers) -> None:
    before = os.umask(0o077)
    try:
        layers.make(7, Kind.ACTIVE, parent=None)
    finally:
        os.umask(before)
    assert mode(layers.upper(7)) == 0o755
    assert Path(layers.work(7)).is_dir()
    assert layers.upper(7).endswith("/snapshots/7/fs")


def test_a_view_is_never_written_to(layers: Layers) -> None:
    layers.make(7, Kind.VIEW, parent=None)
    assert not Path(layers.work(7)).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="root may give files away")
def test_the_root_of_a_tree_belongs_to_whom_it_belonged(layers: Layers) -> None:
    layers.make(1, Kind.ACTIVE, parent=None)
    os.chown(layers.upper(1), 1000, 1001)
    layers.make(2, Kind.ACTIVE, parent=1)
    status = Path(layers.upper(2)).stat()
    assert (status.st_uid, status.st_gid) == (1000, 1001)


def test_what_is_there_is_not_used_again(layers: Layers) -> None:
    layers.make(7, Kind.ACTIVE, parent=None)
    with pytest.raises(LayerError):
        layers.make(7, Kind.ACTIVE, parent=None)


def test_discarding_takes_a_rename_and_deleting_comes_later(layers: Layers, tmp_path: Path) -> None:
    layers.make(7, Kind.ACTIVE, parent=None)
    (Path(layers.upper(7)) / "file").write_text("x")
    assert layers.discard(7)
    assert not layers.discard(8)
    assert not Path(layers.upper(7)).exists()
    assert (tmp_path / "removed/7/fs/file").exists()
    layers.delete(stopped=lambda: True)
    assert (tmp_path / "removed/7").exists()
    assert layers.delete() == 0
    assert list((tmp_path / "removed").iterdir()) == []


def test_a_sweep_spares_what_has_a_row_by_now(layers: Layers, tmp_path: Path) -> None:
    layers.make(1, Kind.ACTIVE, parent=None)
    layers.make(2, Kind.ACTIVE, parent=None)
    (tmp_path / "snapshots/stranger").mkdir()

    def ids() -> set[int]:
        layers.make(3, Kind.ACTIVE, parent=None)  # as if another thread were at it
        return {1}

    layers.sweep(ids)
    assert sorted(entry.name for entry in (tmp_path / "snapshots").iterdir()) == [
        "1",
        "3",
        "stranger",
    ]
    assert sorted(entry.name for entry in (tmp_path / "removed").iterdir()) == ["2"]


def test_usage_counts_a_file_of_two_names_once(layers: Layers) -> None:
    layers.make(7, Kind.ACTIVE, parent=None)
    upper = Path(layers.upper(7))
    assert layers.usage(7).inodes == 1
    (upper / "a").write_bytes(b"x" * 100_000)
    os.link(upper / "a", upper / "b")
    (upper / "directory").mkdir()
    (upper / "directory/link").symlink_to("/nowhere")
    usage = layers.usage(7)
    assert usage.inodes == 4
    assert 100_000 <= usage.size <= 100_000 + 40 * BLOCK
    with pytest.raises(LayerError):
        layers.usage(8)


def test_places_for_store_paths(layers: Layers) -> None:
    layers.make(7, Kind.ACTIVE, parent=None)
    layers.add_mountpoints(7, [("a-dir", True), ("b.txt", False)])
    store = Path(layers.upper(7)) / "nix/store"
    assert (store / "a-dir").is_dir()
    assert (store / "b.txt").is_file()
    (store / "a-dir/inside").write_text("of the layer")
    layers.add_mountpoints(7, [("a-dir", True), ("b.txt", False), ("c-dir", True)])
    assert (store / "a-dir/inside").exists()
    assert sorted(entry.name for entry in store.iterdir()) == ["a-dir", "b.txt", "c-dir"]


@pytest.mark.parametrize("at", ["nix", "nix/store"])
@pytest.mark.parametrize("what", ["link", "file"])
def test_no_place_is_made_through_a_link(
    layers: Layers, tmp_path: Path, at: str, what: str
) -> None:
    layers.make(7, Kind.ACTIVE, parent=None)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "store").mkdir(parents=True)
    place = Path(layers.upper(7)) / at
    place.parent.mkdir(exist_ok=True)
    if what == "link":
        place.symlink_to(elsewhere)
    else:
        place.write_text("")
    with pytest.raises(PreconditionError):
        layers.add_mountpoints(7, [("a", True)])
    assert [entry.name for entry in elsewhere.rglob("*")] == ["store"]


def test_a_short_name_for_a_farm(layers: Layers, tmp_path: Path) -> None:
    layers.make(7, Kind.ACTIVE, parent=None)
    for farm in (tmp_path / "one", tmp_path / "one", tmp_path / "two"):
        layers.link_farm(7, farm)
        assert Path(layers.farm(7)).readlink() == farm
    assert sorted(entry.name for entry in Path(layers.farm(7)).parent.iterdir()) == [
        "farm",
        "fs",
        "work",
    ]


def test_errors_name_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotOursError) as caught:
        Layers(tmp_path / "file")
    assert caught.value.facts["directory"] == tmp_path / "file/snapshots"


@pytest.mark.parametrize("name", ["snapshots", "removed"])
def test_a_link_in_the_place_of_a_directory_is_refused(tmp_path: Path, name: str) -> None:
    # What was behind it would be swept away as snapshots that nobody knows.
    other = tmp_path / "other"
    for entry in ("1", "stranger"):
        (other / entry / "precious").mkdir(parents=True)
    root = tmp_path / "root"
    root.mkdir()
    (root / name).symlink_to(other)
    with pytest.raises(NotOursError, match="symbolic link"):
        Layers(root)
    assert sorted(entry.name for entry in other.rglob("*")) == [
        "1",
        "precious",
        "precious",
        "stranger",
    ]


def test_a_stranger_in_there_is_not_deleted(layers: Layers, tmp_path: Path) -> None:
    stranger = tmp_path / "removed/stranger"
    stranger.mkdir()
    assert layers.delete() == 0
    assert stranger.is_dir()
