from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from garden import Garden
from nixfetch.store import LocalStore
from nixfetch.store.collect import collect
from nixfetch.store.disk import DiskError
from nixfetch.store.layout import Layout
from nixfetch.store.unregistered import (
    UnregisteredTreesError,
    note_unregistered,
    noted,
    refuse_to_collect,
    unregistered,
)
from simulated_cache import store_path
from unit.store.disk_trees import entries

if TYPE_CHECKING:
    from pathlib import Path

LOST = [store_path("lost"), store_path("lost.drv")]


@pytest.fixture
def garden(memory_path: Path) -> Garden:
    """A store that has what `LOST` names, and no rows of it."""
    garden = Garden(memory_path / "root")
    garden.plant({"lib": [], "app": ["lib"]})
    garden.grow()
    for path in LOST:
        (garden.root / "nix/store" / path.base).mkdir()
    return garden


def test_what_is_noted_is_read_again(memory_path: Path) -> None:
    layout = Layout(memory_path)
    layout.unregistered.parent.mkdir(parents=True)
    assert noted(layout) == []
    note_unregistered(layout, LOST[::-1])
    assert noted(layout) == sorted(LOST)
    note_unregistered(layout, LOST[:1])
    assert noted(layout) == LOST[:1]
    note_unregistered(layout, [])
    note_unregistered(layout, [])
    assert noted(layout) == []
    assert entries(layout.unregistered.parent) == []


def test_what_is_no_path_is_passed_over(memory_path: Path) -> None:
    layout = Layout(memory_path)
    layout.unregistered.parent.mkdir(parents=True)
    layout.unregistered.write_bytes(b"\xff\n..\n%s\n\n/etc\n" % LOST[0].base.encode())
    assert noted(layout) == LOST[:1]


def test_a_list_that_cannot_be_read(memory_path: Path) -> None:
    layout = Layout(memory_path)
    layout.unregistered.mkdir(parents=True)
    with pytest.raises(DiskError) as caught:
        noted(layout)
    assert caught.value.facts["file"] == os.fspath(layout.unregistered)


def test_what_is_valid_or_gone_is_none(garden: Garden) -> None:
    with LocalStore(garden.root) as store:
        note_unregistered(store.layout, [*LOST, garden.path("app"), store_path("gone")])
        assert unregistered(store) == sorted(LOST)


def test_a_collector_is_held_back(garden: Garden, tmp_path: Path) -> None:
    with LocalStore(garden.root) as store:
        refuse_to_collect(store)
        note_unregistered(store.layout, LOST)
        with pytest.raises(UnregisteredTreesError) as caught:
            collect(store, proc=tmp_path)
        assert caught.value.facts["count"] == len(LOST)
        assert caught.value.exit_code == 6
        assert len(store.all_valid()) == 2


def test_until_it_is_told_not_to_mind(garden: Garden, tmp_path: Path) -> None:
    with LocalStore(garden.root) as store:
        note_unregistered(store.layout, LOST)
        collected = collect(store, unregistered_too=True, proc=tmp_path)
        assert set(collected.leftovers) == {path.base for path in LOST}
        assert not store.layout.unregistered.exists()
        refuse_to_collect(store)
