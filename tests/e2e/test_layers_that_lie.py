"""Images whose labels are not true of their layers, beside honest ones of the same layers.

Containerd shares snapshots by the digests of layers, and whoever makes an image writes its labels.
So nothing that one image says may change what another one gets.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import pytest

from containers import World, machine
from images import NIX_LAYER, NIX_STORE_PATH, Image, Layer, busybox_layer, layer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers import Machine

pytestmark = pytest.mark.e2e


@dataclasses.dataclass(frozen=True)
class Liar(Image):
    """An image that says that its layers are others."""

    diff_ids: tuple[str, ...] = ()

    def config(self) -> bytes:
        table = json.loads(super().config())
        table["rootfs"]["diff_ids"] = list(self.diff_ids)
        return json.dumps(table, sort_keys=True).encode()


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture
def node(world: World) -> Iterator[Machine]:
    with machine("2.1", world.cache) as node:  # 1.6 hands no labels on when it imports
        yield node


def labelled(content: Layer, *paths: object) -> Layer:
    labels = {f"{NIX_STORE_PATH}{number}": str(path) for number, path in enumerate(paths)}
    return dataclasses.replace(content, annotations={NIX_LAYER: "true", **labels})


def test_a_complete_layer_with_the_digest_of_another(node: Machine, world: World) -> None:
    busybox = busybox_layer()
    evil = Liar("example.test/evil:v1", (world.layer(complete=True),), diff_ids=(busybox.diff_id,))
    assert node.load(evil, check=False).code != 0
    honest = Image("example.test/busybox:v1", (busybox,))
    node.load(honest)
    assert node.once(honest, "sh", "-c", "echo hello").out == "hello\n"
    above = Image("example.test/busybox:v2", (busybox, layer({"etc/x": b"x"})))
    node.load(above)
    assert node.once(above, "cat", "/etc/x").out == "x"


def test_labels_on_an_ordinary_layer(node: Machine, world: World) -> None:
    busybox = busybox_layer()
    evil = Image("example.test/evil:v1", (labelled(busybox, world.stranger),))
    node.load(evil)
    honest = Image("example.test/busybox:v1", (busybox,))
    node.load(honest)
    for image in (honest, evil):
        ran = node.once(image, "sh", "-c", "ls /nix 2>/dev/null; echo done")
        assert ran.out == "done\n"


def test_fewer_labels_than_places(node: Machine, world: World) -> None:
    good = world.hybrid("good")
    base, store_paths = good.layers
    evil = Image("example.test/evil:v1", (base, labelled(store_paths, world.words)), ("/bin/sh",))
    node.load(evil)
    node.load(good)
    assert node.once(good, world.program, "you").out == "words of the store\napp: you\n"
