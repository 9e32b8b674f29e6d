"""Images that ask for what is not theirs: refused at Prepare, and again whenever it is mounted.

All of a daemon but its server works here; what it would have mounted is looked at as it is
answered. The table of bad values is the one of the unit tests.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import nixfetch
from evil_labels import EVIL
from node import Node
from simulated_cache import Link, store_path
from snapshotter.errors import InternalError, InvalidArgumentError, PreconditionError
from snapshotter.labels import NIX_CLOSURE, NIX_LAYER, NIX_LAYER_COMPLETE, NIX_STORE_PATH
from snapshotter.labels import SNAPSHOT_REF as REF

if TYPE_CHECKING:
    from collections.abc import Iterable

    from snapshotter.core import Mode, Snapshotter
    from snapshotter.mounts import Mount

pytestmark = pytest.mark.e2e

A, LIB, LINK, NOBODY = map(store_path, ("a", "lib", "link", "nobody"))
LAYER = {NIX_LAYER: "true"}
MODES: tuple[Mode, ...] = ("target", "lower")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    node = Node(tmp_path)
    node.cache.add("lib", {b"lib": b"code"})
    node.cache.add("a", {b"bin": b"code"}, references=[LIB])
    node.cache.add("link", Link(b"/root"))
    return node


def paths(*found: object) -> dict[str, str]:
    return {f"{NIX_STORE_PATH}{number}": str(path) for number, path in enumerate(found)}


def is_untouched(node: Node, snapshotter: Snapshotter) -> bool:
    """Whether there is no row, no directory, no root and no farm."""
    snapshotter.cleanup()
    farms = node.root / "nix/var/nixfetch/farms"
    return (
        snapshotter.walk() == []
        and node.snapshots() == []
        and node.rooted() == {}
        and node.leftovers() == []
        and list(farms.iterdir()) == []
    )


def stays_inside(node: Node, mounts: Iterable[Mount]) -> bool:
    """Whether all that is mounted lies below the node's own directories."""
    for mount in mounts:
        named = [mount.source] if mount.type != "overlay" else []
        for option in mount.options:
            name, _, value = option.partition("=")
            if name in {"lowerdir", "upperdir", "workdir"}:
                named += value.split(":")
        if not named or not all(
            Path(file).resolve().is_relative_to(node.place.resolve()) for file in named
        ):
            return False
    return True


@pytest.mark.parametrize("value", EVIL)
def test_what_no_label_may_say(node: Node, value: str) -> None:
    with node.snapshotter() as snapshotter:
        for declared in (LAYER, {}):
            for words in (paths(value), paths(A, value), {NIX_CLOSURE: value}):
                complete = {NIX_LAYER_COMPLETE: "true", REF: "sha256:1"}
                for labels in ({**declared, **words}, {**declared, **words, **complete}):
                    with pytest.raises(InvalidArgumentError):
                        snapshotter.prepare("layer", "", labels)
        assert node.fetches == []
        assert is_untouched(node, snapshotter)


def test_paths_of_a_layer_that_says_it_is_none(node: Node) -> None:
    """The reference mounts these into the containers above without a look."""
    with node.snapshotter() as snapshotter:
        for labels in (paths(A), {**paths(A), NIX_LAYER: "false"}, {**paths(A), NIX_LAYER: ""}):
            with pytest.raises(InvalidArgumentError):
                snapshotter.prepare("layer", "", labels)
        assert is_untouched(node, snapshotter)


@pytest.mark.parametrize("value", ["/etc", "/nix/store/.links", "--option"])
def test_labels_that_come_later(node: Node, value: str) -> None:
    """With Commit, with Update, with a View, with the container."""
    evil = {**LAYER, **paths(value)}
    with node.snapshotter() as snapshotter:
        snapshotter.prepare("layer", "", {})
        with pytest.raises(InvalidArgumentError):
            snapshotter.commit("base", "layer", evil)
        snapshotter.commit("base", "layer", {})
        snapshotter.update("base", evil, ["labels"])
        for make in (snapshotter.prepare, snapshotter.view):
            mounts = make(f"{make.__name__}", "base", {})
            assert [mount.target for mount in mounts] == [""]
            assert stays_inside(node, mounts)
        with pytest.raises(InvalidArgumentError):
            snapshotter.prepare("other", "base", evil)
        mounts = snapshotter.view("other", "base", evil)
        assert [mount.target for mount in mounts] == [""]
    assert node.fetches == []


@pytest.mark.parametrize("count", [1, 10_000])
def test_paths_that_no_cache_has(node: Node, count: int) -> None:
    unknown = [store_path(f"nobody{number}") for number in range(count)]
    with node.snapshotter() as snapshotter:
        with pytest.raises(nixfetch.FetchFailedError) as caught:
            snapshotter.prepare("layer", "", {**LAYER, **paths(*unknown)})
        assert len(caught.value.report.failures) == count
        assert is_untouched(node, snapshotter)


def test_too_many_of_them(node: Node) -> None:
    many = paths(*(store_path(f"nobody{number}") for number in range(20_001)))
    with node.snapshotter() as snapshotter:
        with pytest.raises(InvalidArgumentError):
            snapshotter.prepare("layer", "", {**LAYER, **many})
        assert node.fetches == []
        assert is_untouched(node, snapshotter)


@pytest.mark.parametrize("mode", MODES)
def test_a_store_path_that_is_a_link_to_a_place_of_the_host(node: Node, mode: Mode) -> None:
    """It is valid and signed, so a container has it: as a link, never as what it points to."""
    with node.snapshotter(mode) as snapshotter:
        snapshotter.prepare("layer", "", {**LAYER, **paths(A, LINK)})
        snapshotter.commit("base", "layer", {})
        mounts = snapshotter.prepare("container", "base", {})
        assert stays_inside(node, mounts)
        assert str(LINK) not in [mount.target for mount in mounts]
        assert not any("/root" in mount.source for mount in mounts)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [*EVIL, str(NOBODY)])
def test_rows_that_somebody_else_wrote(node: Node, mode: Mode, value: str) -> None:
    """Straight into the database, past all that looked at the labels."""
    with node.snapshotter(mode) as snapshotter:
        snapshotter.prepare("layer", "", {**LAYER, **paths(A)})
        snapshotter.commit("base", "layer", {})
        assert stays_inside(node, snapshotter.prepare("container", "base", {}))
        for injected in ([value], [str(A), str(LIB), value]):
            node.inject("base", *injected)
            with pytest.raises((PreconditionError, InternalError)):
                snapshotter.mounts("container")
            for make in (snapshotter.prepare, snapshotter.view):
                with pytest.raises((PreconditionError, InternalError)):
                    make("another", "base", {})
        assert [info.name for info in snapshotter.walk()] == ["base", "container"]


@pytest.mark.parametrize("mode", MODES)
def test_a_path_that_is_replaced_by_a_link_behind_our_back(node: Node, mode: Mode) -> None:
    with node.snapshotter(mode) as snapshotter:
        snapshotter.prepare("layer", "", {**LAYER, **paths(A)})
        snapshotter.commit("base", "layer", {})
        shutil.rmtree(node.on_disk(A))
        node.on_disk(A).symlink_to("/etc")
        mounts = snapshotter.prepare("container", "base", {})
        assert stays_inside(node, mounts)
        assert str(A) not in [mount.target for mount in mounts]


def lay(node: Node, snapshotter: Snapshotter, key: str) -> Path:
    """Prepare a layer without labels; where it is unpacked, the store of it."""
    [mount] = snapshotter.prepare(key, "", {})
    assert mount.type == "bind"
    store = Path(mount.source) / "nix/store"
    store.mkdir(parents=True)
    assert stays_inside(node, [mount])
    return store


def test_places_of_a_layer_without_labels(node: Node) -> None:
    """They are what it says, and must be had, as those of labels."""
    with node.snapshotter() as snapshotter:
        (lay(node, snapshotter, "layer") / A.base).mkdir()
        snapshotter.commit("base", "layer", {})
        mounts = snapshotter.prepare("container", "base", {})
        assert {mount.target for mount in mounts} == {"", str(A), str(LIB)}
        # One that no cache has next to one that there is: no ordinary layer.
        store = lay(node, snapshotter, "unknown")
        for path in (A, NOBODY):
            (store / path.base).mkdir()
        with pytest.raises(nixfetch.FetchFailedError):
            snapshotter.commit("bad", "unknown", {})
        for name in ("unknown", "container", "base"):
            snapshotter.remove(name)
        assert is_untouched(node, snapshotter)


def test_a_layer_without_labels_whose_places_nobody_knows(node: Node) -> None:
    """An ordinary one with empty directories: it is as it was made, and nothing is mounted."""
    with node.snapshotter() as snapshotter:
        (lay(node, snapshotter, "layer") / NOBODY.base).mkdir()
        snapshotter.commit("base", "layer", {})
        mounts = snapshotter.prepare("container", "base", {})
        assert [mount.target for mount in mounts] == [""]
        assert node.rooted() == {}


@pytest.mark.parametrize("name", [LINK.base, "etc", ".links", "..x", "e" * 32 + "-x"])
def test_a_layer_whose_store_has_something_else_in_it(node: Node, name: str) -> None:
    """It is an ordinary one."""
    with node.snapshotter() as snapshotter:
        store = lay(node, snapshotter, "layer")
        (store / A.base).mkdir()
        (store / name).symlink_to("/root")
        snapshotter.commit("base", "layer", {})
        mounts = snapshotter.prepare("container", "base", {})
        assert [mount.target for mount in mounts] == [""]
    assert node.fetches == []


def test_a_layer_whose_store_is_a_link(node: Node) -> None:
    with node.snapshotter() as snapshotter:
        store = lay(node, snapshotter, "layer")
        store.rmdir()
        outside = node.place / "outside"
        (outside / A.base).mkdir(parents=True)
        store.symlink_to(outside)
        snapshotter.commit("base", "layer", {})
        assert [m.target for m in snapshotter.prepare("container", "base", {})] == [""]
        # With labels it is ordinary too: it has no places.
        store = lay(node, snapshotter, "other")
        store.rmdir()
        store.symlink_to(outside)
        snapshotter.commit("ordinary", "other", {**LAYER, **paths(A)})
        assert [m.target for m in snapshotter.prepare("another", "ordinary", {})] == [""]
        assert sorted(entry.name for entry in outside.iterdir()) == [A.base]
