from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from garden import Garden
from nixfetch.kernel import UnsupportedError
from nixfetch.store import LocalStore, RootKind, Roots, rootlinks
from nixfetch.store.collect import collect
from nixfetch.store.disk import DiskError
from nixfetch.store.local import ReadOnlyStoreError
from nixfetch.store.newroots import collecting
from nixfetch.store.roots import NoSuchRootError, PathNotValidError, RootNameError, RootTakenError
from simulated_cache import store_path
from unit.store.disk_trees import entries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A, B, C, NOBODY = map(store_path, ["a", "b", "c", "nobody"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    garden = Garden(tmp_path / "garden")
    garden.plant({"a": [], "b": ["a"], "c": []})
    garden.grow()
    return garden.root


@pytest.fixture
def store(root: Path) -> Iterator[LocalStore]:
    with LocalStore(root) as store:
        yield store


def kept(store: LocalStore) -> set[tuple[str, str]]:
    return {(root.name, root.path.name) for root in Roots(store).list() if root.path}


def links(store: LocalStore, name: str) -> dict[str, str]:
    place = store.layout.named_roots / name
    return {link.name: os.readlink(link) for link in place.iterdir()}  # noqa: PTH115 - as it is


def test_several_under_one_name(store: LocalStore) -> None:
    Roots(store).add_set("web", [A, C])
    assert links(store, "web") == {A.base: str(A), C.base: str(C)}
    assert Roots(store).sets() == {"web"}
    assert [(root.kind, root.name) for root in Roots(store).list()] == [(RootKind.SET, "web")] * 2
    Roots(store).remove("web")
    assert entries(store.layout.named_roots) == []
    with pytest.raises(NoSuchRootError):
        Roots(store).remove("web")


def test_no_store_has_sets_yet(store: LocalStore) -> None:
    assert Roots(store).sets() == set()
    Roots(store).sweep()


def test_a_set_is_replaced_as_a_whole(store: LocalStore) -> None:
    roots = Roots(store)
    roots.add_set("web", [A, B])
    roots.add_set("web", [C])
    assert kept(store) == {("web", "c")}
    roots.add_set("web", [])
    assert roots.sets() == {"web"}
    assert kept(store) == set()
    roots.add_set("web", [B])
    assert kept(store) == {("web", "b")}
    assert entries(store.layout.named_roots) == ["web"]


def test_all_or_none(store: LocalStore) -> None:
    Roots(store).add_set("old", [A])
    for name in ("old", "new"):
        with pytest.raises(PathNotValidError) as caught:
            Roots(store).add_set(name, [C, NOBODY])
        assert caught.value.facts == {"path": NOBODY}
    assert kept(store) == {("old", "a")}
    assert entries(store.layout.named_roots) == ["old"]


def test_what_they_keep_stays(root: Path) -> None:
    with LocalStore(root) as store:
        Roots(store).add_set("web", [B])
        assert [path.name for path in collect(store).paths] == ["c"]
        assert store.all_valid() == sorted([A, B])
        Roots(store).remove("web")
        assert {path.name for path in collect(store).paths} == {"a", "b"}


def test_a_name_has_one_root_or_a_set(store: LocalStore) -> None:
    roots = Roots(store)
    roots.add("one", A)
    roots.add_set("several", [B])
    with pytest.raises(RootTakenError):
        roots.add_set("one", [B])
    with pytest.raises(RootTakenError):
        roots.add("several", A)
    assert kept(store) == {("one", "a"), ("several", "b")}
    assert entries(store.layout.named_roots) == ["one", "several"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\n", ".nixfetch-" + "0" * 16])
def test_what_no_set_can_be_called(name: str, store: LocalStore) -> None:
    with pytest.raises(RootNameError):
        Roots(store).add_set(name, [A])


def test_a_store_that_is_open_for_reading(root: Path) -> None:
    with LocalStore(root, read_only=True) as reader:
        assert Roots(reader).sets() == set()
        with pytest.raises(ReadOnlyStoreError):
            Roots(reader).add_set("web", [A])
        with pytest.raises(ReadOnlyStoreError):
            Roots(reader).sweep()


def test_what_a_crash_left_goes_with_a_sweep(store: LocalStore) -> None:
    Roots(store).add_set("web", [A])
    left = store.layout.named_roots / rootlinks.scratch_name()
    left.mkdir()
    (left / B.base).symlink_to(str(B))
    assert Roots(store).sets() == {"web"}
    assert ("web", "a") in kept(store)
    Roots(store).sweep()
    assert entries(store.layout.named_roots) == ["web"]


def test_a_sweep_meanwhile_costs_nobody_anything(store: LocalStore) -> None:
    """And whoever looks sees a whole set."""
    roots, over = Roots(store), threading.Event()
    wholes = ({A.base, B.base}, {C.base})
    roots.add_set("web", [C])
    crashes: list[BaseException] = []

    def sweep() -> None:
        while not over.is_set():
            roots.sweep()

    def replace() -> None:
        try:
            for number in range(12):
                roots.add_set("web", [A, B] if number % 2 else [C])
                assert set(links(store, "web")) in wholes
        except BaseException as error:  # noqa: BLE001 - raised below
            crashes.append(error)

    sweeper, replacer = threading.Thread(target=sweep), threading.Thread(target=replace)
    sweeper.start()
    replacer.start()
    replacer.join()
    over.set()
    sweeper.join()
    assert not crashes
    assert entries(store.layout.named_roots) == ["web"]


def test_a_collector_at_work_is_told(store: LocalStore) -> None:
    with collecting(store.layout) as new_roots:
        thread = threading.Thread(target=Roots(store).add_set, args=["web", [A, C]])
        thread.start()
        thread.join()
        assert new_roots.claim([A.hash_part]) == {A.hash_part, C.hash_part}


def test_an_error_leaves_no_half_of_a_set(store: LocalStore) -> None:
    Roots(store).add_set("web", [A])
    targets = {"x": "y" * 5000, "a": str(A)}
    with pytest.raises(OSError, match="too long"):
        rootlinks.put_set(store.layout.named_roots / "web", targets)
    assert kept(store) == {("web", "a")}
    assert entries(store.layout.named_roots) == ["web"]
    with pytest.raises(FileNotFoundError):
        rootlinks.put_set(store.layout.named_roots / "none/web", {})


def test_a_file_system_that_cannot_exchange_names(store: LocalStore) -> None:
    def refuse(_one: Path, _other: Path) -> None:
        raise UnsupportedError

    place = store.layout.named_roots / "web"
    Roots(store).add_set("web", [A])
    rootlinks.put_set(place, {B.base: str(B)}, swap=refuse)
    assert kept(store) == {("web", "b")}
    assert entries(store.layout.named_roots) == ["web"]


def test_places_that_cannot_be_read(store: LocalStore) -> None:
    store.layout.named_roots.write_text("")
    with pytest.raises(DiskError):
        Roots(store).sets()
    with pytest.raises(DiskError):
        Roots(store).sweep()
