from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from image_files import Made, digest, laid
from image_files import layout as files_of
from snapshotter.image import archive, layout
from snapshotter.image.layout import OutputError
from snapshotter.oci.digests import BlobError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from snapshotter.oci.image import Image
    from snapshotter.oci.model import Descriptor

NAME = "a.test/b:1"
MADE = Made()


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Image]:
    with archive.opening(laid(files_of(MADE), tmp_path / "made")) as found:
        yield replace(found, name=NAME)


def test_an_archive_has_all_that_its_readers_want(image: Image, tmp_path: Path) -> None:
    file = tmp_path / "image.tar"
    layout.write_archive(image, file)
    with tarfile.open(file) as opened:
        names = opened.getnames()
        manifest = json.load(opened.extractfile("manifest.json"))  # type: ignore[arg-type]
        index = json.load(opened.extractfile("index.json"))  # type: ignore[arg-type]
    blobs = sorted(f"blobs/{digest(blob).replace(':', '/')}" for blob in MADE.blobs)
    assert names == ["blobs", "blobs/sha256", *blobs, "index.json", "manifest.json", "oci-layout"]
    assert manifest[0]["RepoTags"] == [NAME]
    assert set(manifest[0]["Layers"]) < set(blobs)
    assert index["manifests"][0]["annotations"] == {
        "io.containerd.image.name": NAME,
        "org.opencontainers.image.ref.name": "1",
    }
    assert index["manifests"][0]["platform"] == {"os": "linux", "architecture": "amd64"}
    with archive.opening(file) as found:
        assert found.manifest_bytes == MADE.manifest
        assert found.name == NAME
    assert file.stat().st_mode & 0o777 == 0o644


def test_a_directory_takes_several_images(image: Image, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    layout.write_directory(image, folder)
    layout.write_directory(replace(image, name="a.test/b:2"), folder)
    other = Made(words=("/other",))
    with archive.opening(laid(files_of(other), tmp_path / "other")) as found:
        layout.write_directory(replace(found, name=NAME), folder)
    with archive.opening(folder, name="1") as found:
        assert found.config.process.command == ("/other",)
    assert sorted(each.name for each in folder.iterdir()) == ["blobs", "index.json", "oci-layout"]


def test_a_directory_that_is_something_else(image: Image, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="is no OCI layout"):
        layout.write_directory(image, tmp_path)
    with pytest.raises(OutputError, match="cannot write an image"):
        layout.write_directory(image, tmp_path / "file")
    with pytest.raises(OutputError, match="cannot write an image"):
        layout.write_archive(image, tmp_path / "none/image.tar")


class Broken:
    """Blobs that cannot be read."""

    def chunks(self, blob: Descriptor) -> Iterator[bytes]:
        yield b"x"
        raise BlobError("blob ends early", digest=blob.digest)


def test_what_cannot_be_read_leaves_what_was_there(image: Image, tmp_path: Path) -> None:
    file = tmp_path / "image.tar"
    file.write_bytes(b"before")
    with pytest.raises(BlobError):
        layout.write_archive(replace(image, blobs=Broken()), file)
    assert file.read_bytes() == b"before"
    with pytest.raises(BlobError):
        layout.write_directory(replace(image, blobs=Broken()), tmp_path / "images")
    left = [each for each in (tmp_path / "images").rglob("*") if each.is_file()]
    assert {each.name for each in left} <= {digest(blob)[7:] for blob in MADE.blobs}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["image.tar", "images", "made"]
