"""Sets of roots: several paths under one name, which real Nix honours as it does single ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from garden import Garden
from nixfetch.store import LocalStore, Roots, rootlinks
from real_nix import SYSTEMS, real_nix
from snapshotter.farm import Farms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from real_nix import RealNix

pytestmark = pytest.mark.differential


@pytest.fixture(params=SYSTEMS)
def nix(request: pytest.FixtureRequest) -> Iterator[RealNix]:
    with real_nix(request.param) as nix:
        yield nix


def test_nix_sees_each_link_of_a_set(nix: RealNix) -> None:
    garden = Garden(nix.place / "ours")
    garden.plant({"one": [], "two": [], "three": []})
    garden.grow()
    with LocalStore(garden.root) as store:
        Roots(store).add_set("snapshot-1", [garden.path("one"), garden.path("two")])
        Roots(store).add_set("snapshot-2", [])
    lines = nix.lines("nix-store", "--store", garden.root, "--gc", "--print-roots")
    said = {line.replace('"', "") for line in lines}  # the newer one quotes names of files
    where = nix.inside(garden.root / "nix/var/nix/gcroots/nixfetch/snapshot-1")
    assert {
        f"{where}/{garden.path(name).base} -> {garden.path(name)}" for name in ("one", "two")
    } <= said


def test_nix_collects_what_no_set_keeps(nix: RealNix) -> None:
    garden = Garden(nix.place / "ours")
    garden.plant({"lib": [], "app": ["lib"], "tool": ["lib"], "other": []})
    garden.grow()
    with LocalStore(garden.root) as store:
        Roots(store).add_set("a", [garden.path("app")])
        Roots(store).add_set("b", [garden.path("tool"), garden.path("other")])
        Roots(store).remove("b")
    nix.run("nix-store", "--store", garden.root, "--gc")
    assert garden.valid() == ["app", "lib"]
    with LocalStore(garden.root) as store:
        Roots(store).remove("a")
    nix.run("nix-store", "--store", garden.root, "--gc")
    assert garden.valid() == []


def test_what_a_crash_left_of_one_keeps_for_nix_until_it_is_swept(nix: RealNix) -> None:
    garden = Garden(nix.place / "ours")
    garden.plant({"one": []})
    garden.grow()
    with LocalStore(garden.root) as store:
        place = store.layout.named_roots / rootlinks.scratch_name()
        place.mkdir(parents=True)
        (place / garden.path("one").base).symlink_to(str(garden.path("one")))
    nix.run("nix-store", "--store", garden.root, "--gc")
    assert garden.valid() == ["one"]
    with LocalStore(garden.root) as store:
        Roots(store).sweep()
    nix.run("nix-store", "--store", garden.root, "--gc")
    assert garden.valid() == []


def test_nix_finds_nothing_wrong_with_a_store_that_has_a_farm(nix: RealNix) -> None:
    """A farm shares the inodes of the store, and lies beside it; Nix works on as if it was not."""
    garden = Garden(nix.place / "ours")
    garden.plant({"lib": [], "app": ["lib"], "other": []}, files=3)
    garden.grow()
    with LocalStore(garden.root) as store:
        Roots(store).add_set("snapshot", [garden.path("app")])
        farms = Farms(garden.root / "nix/var/nixfetch/farms", store)
        farm = farms.get([garden.path("app"), garden.path("lib")])
        for work in (["--verify", "--check-contents"], ["--optimise"], ["--gc"], ["--verify"]):
            nix.run("nix-store", "--store", garden.root, *work)
        assert garden.valid() == ["app", "lib"]
        assert (farm / "nix/store" / garden.path("lib").base / "file0").read_bytes() == b"lib"
        assert farms.get([garden.path("app"), garden.path("lib")]) == farm
        Roots(store).remove("snapshot")
        farms.sweep([])
    nix.run("nix-store", "--store", garden.root, "--gc")
    assert garden.valid() == []
    assert garden.on_disk() == []
