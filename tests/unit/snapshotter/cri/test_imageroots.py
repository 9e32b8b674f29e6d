from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import nixfetch
from node import never
from simulated_cache import store_path
from snapshotter.cri.imageroots import ImageRoots
from snapshotter.errors import UnavailableError
from snapshotter.imageref import NixReference

if TYPE_CHECKING:
    from collections.abc import Callable

    from nixfetch import StorePath
    from snapshotter.labels import NixLayer

ONE, TWO = store_path("one"), store_path("two")


class Paths:
    """Store paths that are all there."""

    def __init__(self) -> None:
        self.rooted: dict[str, tuple[StorePath, ...]] = {}
        self.fails = False

    def ensure(
        self, layer: NixLayer, *, root: str, cancelled: Callable[[], bool]
    ) -> tuple[StorePath, ...]:
        if self.fails:
            raise nixfetch.StoreError("not to be had")
        self.rooted[root] = layer.paths
        return layer.paths

    def unroot(self, name: str) -> None:
        self.rooted.pop(name, None)

    def roots(self) -> set[str]:
        return set(self.rooted)

    def kept(self) -> set[StorePath]:
        return {path for paths in self.rooted.values() for path in paths}


def keep(roots: ImageRoots, path: StorePath) -> None:
    with roots.keeping(path, is_image=lambda: True, cancelled=never):
        pass


def test_kept_until_the_image_is_gone() -> None:
    paths = Paths()
    roots = ImageRoots(paths, "i")
    keep(roots, ONE)
    keep(roots, TWO)
    assert paths.kept() == {ONE, TWO}
    others = [
        "nix:0/nix/store/not-a-path",
        "example.test/a:v1",
        "",
        f"{NixReference(ONE)}@sha256:x",
    ]
    assert len(roots.sweep(lambda: [str(NixReference(ONE)), *others])) == 1
    assert paths.kept() == {ONE}
    roots.sweep(list)
    assert paths.kept() == set()


def test_names_with_a_digest_are_of_the_image_too() -> None:
    paths = Paths()
    roots = ImageRoots(paths, "i")
    keep(roots, ONE)
    name = f"{NixReference(ONE).repository}@sha256:{'0' * 64}"
    assert roots.sweep(lambda: [name]) == []


def test_containerd_is_not_asked_for_nothing() -> None:
    def fail() -> list[str]:
        raise UnavailableError("nobody is there")

    paths = Paths()
    roots = ImageRoots(paths, "i")
    assert roots.sweep(fail) == []
    keep(roots, ONE)
    with pytest.raises(UnavailableError):
        roots.sweep(fail)
    assert paths.kept() == {ONE}


def test_roots_of_others_stay() -> None:
    paths = Paths()
    paths.rooted |= {"i-1": (ONE,), "image-j-x": (ONE,), "image-i": (ONE,)}
    before = dict(paths.rooted)
    ImageRoots(paths, "i").sweep(list)
    assert paths.rooted == before


@pytest.mark.parametrize("is_image", [True, False])
def test_an_error_keeps_what_has_an_image(*, is_image: bool) -> None:
    paths = Paths()
    with (
        pytest.raises(ValueError, match="mine"),
        ImageRoots(paths, "i").keeping(ONE, is_image=lambda: is_image, cancelled=never),
    ):
        raise ValueError("mine")
    assert paths.kept() == ({ONE} if is_image else set())


def test_an_error_while_nobody_knows_whether_there_is_an_image() -> None:
    """The root stays; a sweep will tell."""

    def unknown() -> bool:
        raise UnavailableError("nobody is there")

    paths = Paths()
    roots = ImageRoots(paths, "i")
    with (
        pytest.raises(ValueError, match="mine"),
        roots.keeping(ONE, is_image=unknown, cancelled=never),
    ):
        raise ValueError("mine")
    assert paths.kept() == {ONE}
    roots.sweep(list)
    assert paths.kept() == set()


def test_a_path_that_is_not_to_be_had() -> None:
    paths = Paths()
    paths.fails = True
    roots = ImageRoots(paths, "i")
    with pytest.raises(nixfetch.StoreError):
        keep(roots, ONE)
    paths.fails = False
    keep(roots, ONE)  # its turn is not lost


def test_one_pull_of_a_path_at_a_time() -> None:
    paths = Paths()
    roots = ImageRoots(paths, "i")
    order: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def first() -> None:
        with roots.keeping(ONE, is_image=lambda: True, cancelled=never):
            begun.set()
            assert go_on.wait(30.0)
            order.append("first")

    def second() -> None:
        with roots.keeping(ONE, is_image=lambda: True, cancelled=never):
            order.append("second")

    with ThreadPoolExecutor() as threads:
        one = threads.submit(first)
        assert begun.wait(30.0)
        two = threads.submit(second)
        keep(roots, TWO)  # is nobody's turn
        with (
            pytest.raises(nixfetch.CancelledError),
            roots.keeping(ONE, is_image=lambda: True, cancelled=lambda: True),
        ):
            raise AssertionError
        go_on.set()
        one.result()
        two.result()
    assert order == ["first", "second"]


def test_a_pull_during_a_sweep() -> None:
    """Whenever it begins and ends between the questions of a sweep, its root stays."""
    paths = Paths()
    roots = ImageRoots(paths, "i")
    keep(roots, ONE)
    roots.sweep(lambda: [str(NixReference(ONE))])

    def images_before_the_pull() -> list[str]:
        keep(roots, ONE)  # begins and ends once the answer is on its way
        return []

    assert roots.sweep(images_before_the_pull) == []
    assert paths.kept() == {ONE}
    with roots.keeping(ONE, is_image=lambda: True, cancelled=never):
        assert roots.sweep(list) == []
        assert paths.kept() == {ONE}
    assert len(roots.sweep(list)) == 1
