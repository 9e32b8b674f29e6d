"""What a reference to the store means: an image that lies there, or one made of a path."""

from __future__ import annotations

import gzip
import io
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from image_files import Made, layout, tar
from simulated_cache import Executable, store_path
from snapshotter import labels
from snapshotter.image import bare, inspection, storeimage
from snapshotter.imageref import NixReference
from snapshotter.oci.digests import ImageError
from snapshotter.oci.model import Platform
from store_of_images import (
    ALIAS,
    EMPTY,
    LIBC,
    SCRIPT,
    SERVER,
    TOOLS,
    WORDS,
    WRAPPER,
    Grown,
    elf,
    grown,
    planted,
    to,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


@pytest.fixture(scope="module")
def garden(tmp_path_factory: pytest.TempPathFactory) -> Grown:
    return planted(tmp_path_factory.mktemp("store"))


@pytest.mark.parametrize(
    ("path", "entrypoint"),
    [
        (SERVER, (f"{SERVER}/bin/server",)),
        (WRAPPER, (f"{WRAPPER}/bin/run",)),
        (ALIAS, (f"{ALIAS}/bin/server",)),
        (SCRIPT, (str(SCRIPT),)),
        (TOOLS, ()),
        (LIBC, ()),
        (WORDS, ()),
        (EMPTY, ()),
    ],
)
def test_what_is_run(garden: Grown, path: Any, entrypoint: tuple[str, ...]) -> None:
    with garden.open() as trees, bare.making(path, trees, machine=AMD64) as image:
        assert image.config.process.entrypoint == entrypoint
        assert image.config.process.environment == (f"PATH={path}/bin",)
        assert image.name == str(NixReference(path))
        nix, users = image.manifest.layers
        inspection.look_all(image)
        found = labels.parse(nix.annotations)
        assert found is not None
        assert (found.paths, found.complete) == (trees.closure([path]), True)
        assert labels.parse(users.annotations) is None


@pytest.mark.parametrize(
    ("programs", "expected"),
    [
        ({"a": elf(183)}, "linux/arm64"),
        ({"a": elf(183), "b": elf(183), "c": elf(62)}, "linux/arm64"),
        ({"a": elf(183), "b": elf(62)}, "linux/amd64"),
        ({"a": Executable(b"#!/bin/sh")}, "linux/riscv64"),
    ],
)
def test_the_machine_is_that_of_the_programs(
    programs: Mapping[str, Executable], expected: str, tmp_path: Path
) -> None:
    tree = {b"bin": {name.encode(): program for name, program in programs.items()}}
    store = grown(tmp_path, {"a": (tree, ())})
    machine = Platform("linux", "riscv64")
    with store.open() as trees, bare.making(store_path("a"), trees, machine=machine) as image:
        assert str(image.config.platform) == expected


def test_the_machine_of_a_wrapper_is_that_of_its_closure(tmp_path: Path) -> None:
    store = grown(
        tmp_path,
        {
            "a": ({b"bin": {b"a": Executable(b"#!/bin/sh")}}, ["b"]),
            "b": ({b"lib": {b"b.so": elf(183)}}, []),
        },
    )
    with store.open() as trees, bare.making(store_path("a"), trees, machine=AMD64) as image:
        assert image.config.platform == ARM64


def test_the_same_path_is_the_same_image(garden: Grown, tmp_path: Path) -> None:
    digests = set()
    for store in (garden, planted(tmp_path)):
        for machine in (AMD64, ARM64):
            with store.open() as trees, bare.making(SERVER, trees, machine=machine) as image:
                digests.add(image.descriptor.digest)
    assert digests == {"sha256:1632a53c0f9be17e2c5e713805dabfe32ace8b1ff164bd77dfd6d1e137695fba"}


def opened(store: Grown, reference: NixReference, machine: Platform = AMD64) -> Any:
    with (
        store.open() as trees,
        storeimage.opening(reference, trees, machine=machine) as image,
    ):
        inspection.look_all(image)
        return image


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("image", tar(layout(Made()))),
        ("image.tar.gz", gzip.compress(tar(layout(Made())))),
        ("image.zip", gzip.compress(tar(layout(Made())))),
    ],
)
def test_an_archive_in_the_store(name: str, content: bytes, tmp_path: Path) -> None:
    store = grown(tmp_path, {name: (content, ())})
    image = opened(store, NixReference(store_path(name)))
    assert image.config.process.command == ("/bin/sh",)
    with pytest.raises(ImageError, match="another platform"):
        opened(store, NixReference(store_path(name)), ARM64)


def test_a_layout_in_the_store(tmp_path: Path) -> None:
    tree: dict[bytes, Any] = {b"blobs": {b"sha256": {}}}
    for name, data in layout(Made()).items():
        *above, last = name.encode().split(b"/")
        (tree[b"blobs"][b"sha256"] if above else tree)[last] = data
    store = grown(tmp_path, {"image": (tree, ())})
    assert opened(store, NixReference(store_path("image"))).config.process.command == ("/bin/sh",)


def test_what_is_called_an_archive_has_to_be_one(tmp_path: Path) -> None:
    store = grown(tmp_path, {"image.tar": (b"words", ())})
    with pytest.raises(ImageError):
        opened(store, NixReference(store_path("image.tar")))


def test_any_other_path_is_made_into_an_image(garden: Grown) -> None:
    assert opened(garden, NixReference(WORDS)).name.startswith("nix:0/nix/store/")


def test_a_reference_with_a_digest(garden: Grown) -> None:
    image = opened(garden, NixReference(SERVER))
    assert opened(garden, NixReference(SERVER, image.descriptor.digest)) is not None
    with pytest.raises(ImageError, match="another digest"):
        opened(garden, NixReference(SERVER, "sha256:" + "0" * 64))


def test_links_out_of_the_store_lead_nowhere(tmp_path: Path) -> None:
    from simulated_cache import Link

    tree = {b"bin": {b"a": Link(b"/bin/sh"), b"b": to(store_path("none"), "b")}}
    store = grown(tmp_path, {"a": (tree, ())})
    with store.open() as trees, bare.making(store_path("a"), trees, machine=AMD64) as image:
        assert image.config.process.entrypoint == ()


def test_only_the_archive_is_read_not_what_it_holds(tmp_path: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as output:
        output.addfile(tarfile.TarInfo("../../evil"))
    store = grown(tmp_path, {"image.tar": (data.getvalue(), ())})
    with pytest.raises(ImageError, match="leads out of the archive"):
        opened(store, NixReference(store_path("image.tar")))
