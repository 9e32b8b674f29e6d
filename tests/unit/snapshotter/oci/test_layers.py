"""What layers of ours are made of: compression, places for store paths, machines of programs."""

from __future__ import annotations

import gzip
import struct

import pytest

import nixfetch
from simulated_cache import store_path
from snapshotter import labels
from snapshotter.oci import elf, nixlayer, tar
from snapshotter.oci.compression import compressed
from snapshotter.oci.model import MAX_MANIFEST, Descriptor, Manifest

DATA = [b"abc" * 10_000, b"", b"x"]
PATHS = sorted(store_path(f"p{number}") for number in range(1203))


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_compressed_data_are_what_they_were(compression: str) -> None:
    packed = b"".join(compressed(compression, DATA))
    assert b"".join(nixfetch.decode(compression, [packed])) == b"".join(DATA)
    assert packed == b"".join(compressed(compression, DATA))
    assert packed == b"".join(compressed(compression, list(DATA)))


def test_gzip_says_neither_time_nor_system() -> None:
    packed = b"".join(compressed("gzip", DATA))
    assert packed[:10] == b"\x1f\x8b\x08" + bytes(6) + b"\xff"
    assert gzip.decompress(packed) == b"".join(DATA)


def test_places_are_empty() -> None:
    directory, file = PATHS[:2]
    entries = nixlayer.places({file: True, directory: False})
    assert [(e.name, e.kind, e.mode, e.size) for e in entries] == [
        (b"nix", tar.DIRECTORY, 0o755, 0),
        (b"nix/store", tar.DIRECTORY, 0o755, 0),
        (f"nix/store/{directory.base}".encode(), tar.DIRECTORY, 0o755, 0),
        (f"nix/store/{file.base}".encode(), tar.FILE, 0o555, 0),
    ]


def test_many_paths_are_several_layers() -> None:
    groups = nixlayer.groups(reversed(PATHS))
    assert [len(group) for group in groups] == [500, 500, 203]
    assert [path for group in groups for path in group] == PATHS
    assert nixlayer.groups([]) == []


def test_annotations_are_what_the_snapshotter_reads() -> None:
    annotations = nixlayer.annotated(PATHS[:3])
    found = labels.parse(annotations)
    assert found == labels.NixLayer(tuple(PATHS[:3]), None, complete=True)
    assert annotations["containerd.io/snapshot/nix-layer"] == "true"
    assert annotations["containerd.io/snapshot/nix-store-path.2"] == str(PATHS[2])


def test_a_closure_info_is_said_besides() -> None:
    info = store_path("closure-info")
    found = labels.parse(nixlayer.annotated(PATHS, closure=info))
    assert found == labels.NixLayer(tuple(PATHS), info, complete=True)


def test_a_large_closure_is_said_by_its_closure_info_alone() -> None:
    info = store_path("closure-info")
    many = PATHS * 20
    annotations = nixlayer.annotated(many, closure=info)
    assert labels.parse(annotations) == labels.NixLayer((), info, complete=True)
    assert len(nixlayer.annotated(many)) == len(many) + 2


def test_as_many_paths_as_manifests_hold() -> None:
    """11,000 of them, 22 layers; a system of NixOS has 2,000 to 6,000."""
    paths = [f"{nixfetch.STORE_DIR}/{'0' * 32}-{'n' * 40}{number}" for number in range(11_000)]
    every = [nixfetch.StorePath.parse_full(path) for path in paths]
    layers = tuple(
        Descriptor.of("l", b"", nixlayer.annotated(group)) for group in nixlayer.groups(every)
    )
    data = Manifest(config=Descriptor.of("c", b""), layers=layers).json()
    assert len(layers) == 22
    assert len(data) < MAX_MANIFEST


def head(machine: int, width: int = 2, order: int = 1) -> bytes:
    number = struct.pack("<H" if order == 1 else ">H", machine)
    return b"\x7fELF" + bytes([width, order, 1]) + bytes(11) + number


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (head(62), "linux/amd64"),
        (head(183), "linux/arm64"),
        (head(40, 1), "linux/arm"),
        (head(3, 1), "linux/386"),
        (head(22, 2, 2), "linux/s390x"),
        (head(21, 2, 1), "linux/ppc64le"),
        (head(243), "linux/riscv64"),
        (head(258), "linux/loong64"),
        (head(62)[:19], "None"),
        (head(62, 7), "None"),
        (head(9999), "None"),
        (b"#!/bin/sh\n" + bytes(20), "None"),
        (b"", "None"),
    ],
)
def test_the_machine_of_a_program(data: bytes, expected: str) -> None:
    assert str(elf.platform(data)) == expected
