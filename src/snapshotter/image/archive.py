"""Images in files: OCI layouts (a directory, or in a tar archive) and archives of `docker save`.

    oci-layout, index.json, blobs/sha256/…        OCI; where both are there, it is this one
    manifest.json, and what it names              Docker; the manifest is made from it

An archive may be compressed as a whole, as those of Nixpkgs' `dockerTools` are. Whoever wrote it
is not believed: the index, the manifest and the configuration are bounded and checked before an
image is given out, layers while they are read.

Source: opencontainers/image-spec, image-layout.md; moby, image/spec/v1.2.md.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import nixfetch
from snapshotter.image import places
from snapshotter.image.places import ArchiveError, Place
from snapshotter.oci.choice import CHOICE, choose, flat
from snapshotter.oci.config import ImageConfig
from snapshotter.oci.digests import ImageError, hasher, verified
from snapshotter.oci.image import Image, check_platform, read_image
from snapshotter.oci.model import (
    CONFIG,
    MAX_LAYERS,
    MAX_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
    layer_type,
)
from snapshotter.oci.reading import Fields, document

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_IMAGES = 1000  # of an archive
MAX_LAYOUT = 4096  # bytes of the file `oci-layout`


@contextmanager
def opening(
    file: Path,
    *,
    platform: Platform | None = None,
    name: str | None = None,
    scratch: Path | None = None,
) -> Iterator[Image]:
    """Open the image in a file or a directory; its blobs can be read within the block.

    Args:
        file: an archive, or a directory with an OCI layout.
        platform: of the machine that it is for: picks from what is there, and must fit. None:
            there has to be one image only.
        name: which one, where there are several: its reference or tag.
        scratch: where a compressed archive is unpacked, into a file without a name.

    Raises:
        UnreadableError: the operating system does not let us.
        ImageError: there is no image, none for that platform, or more than one; or what is there
            is damaged or beyond all bounds.
    """
    with places.opening(file, scratch=scratch) as place:
        with nixfetch.facts(file=str(file)):
            image = _image(place, platform, name)
            if platform is not None:
                check_platform(image, platform)
        yield image


def _image(place: Place, platform: Platform | None, name: str | None) -> Image:
    if place.size("oci-layout") is not None or place.size("index.json") is not None:
        return _of_layout(place, platform, name)
    if place.size("manifest.json") is not None:
        return _of_docker(place, name)
    raise ArchiveError(
        "no image in there",
        hint="an image has index.json (OCI) or manifest.json (docker save) at its top",
    )


def _whole(place: Place, name: str, limit: int) -> bytes:
    """A small file, read at once."""
    size = place.size(name)
    if size is None:
        raise ArchiveError("image lacks a file", name=name[:200])
    if size > limit:
        raise ArchiveError("file of an image is too large", name=name[:200], size=size, limit=limit)
    return b"".join(place.chunks(name))


# OCI.


@dataclass(frozen=True, slots=True)
class _Layout:
    """The blobs of an OCI layout."""

    place: Place

    def chunks(self, blob: Descriptor) -> Iterator[bytes]:
        name = f"blobs/{blob.digest.replace(':', '/', 1)}"
        hasher(blob.digest)  # which no other name passes
        size = self.place.size(name)
        if size is None:
            raise ArchiveError("image lacks a blob", digest=blob.digest)
        if size != blob.size:
            raise ArchiveError(
                "blob has another size", digest=blob.digest, expected=blob.size, actual=size
            )
        return verified(self.place.chunks(name), digest=blob.digest, size=blob.size)

    def whole(self, blob: Descriptor) -> bytes:
        """A manifest or an index."""
        if blob.size > MAX_MANIFEST:
            raise ArchiveError(
                "manifest is too large", digest=blob.digest, size=blob.size, limit=MAX_MANIFEST
            )
        return b"".join(self.chunks(blob))


def _of_layout(place: Place, platform: Platform | None, name: str | None) -> Image:
    if place.size("oci-layout") is not None:
        version = Fields.parse(
            _whole(place, "oci-layout", MAX_LAYOUT), what="oci-layout", limit=MAX_LAYOUT
        ).text("imageLayoutVersion")
        if not version.startswith("1."):
            raise ArchiveError("unknown version of the OCI layout", version=version[:50])
    layout = _Layout(place)
    index = Index.parse(_whole(place, "index.json", MAX_MANIFEST))
    found = choose(flat(index, layout.whole), platform=platform, name=name)
    return read_image(layout.whole(found.blob), layout, name=found.name)


# Docker.


@dataclass(frozen=True, slots=True)
class _Named:
    """Blobs that lie under names of their own, by digest."""

    place: Place
    names: dict[str, str]

    def chunks(self, blob: Descriptor) -> Iterator[bytes]:
        name = self.names.get(blob.digest)
        if name is None:
            raise ArchiveError("image lacks a blob", digest=blob.digest)
        return verified(self.place.chunks(name), digest=blob.digest, size=blob.size)


def _of_docker(place: Place, name: str | None) -> Image:
    listed = document(
        _whole(place, "manifest.json", MAX_MANIFEST), what="manifest.json", limit=MAX_MANIFEST
    )
    fields = Fields("manifest.json", {"images": listed})
    images = fields.each("images", MAX_IMAGES)
    named = [each for each in images if name is None or name in each.texts("RepoTags", MAX_IMAGES)]
    if len(named) != 1:
        every = {tag for each in images for tag in each.texts("RepoTags", MAX_IMAGES)}
        problem = "several images there" if named else "no such image there"
        raise ImageError(problem, name=name, images=sorted(every)[:20], hint=CHOICE)
    tags = named[0].texts("RepoTags", MAX_IMAGES)
    config = _whole(place, named[0].text("Config"), MAX_MANIFEST)
    files = named[0].texts("Layers", MAX_LAYERS)
    return _made(place, config, files, name or (tags[0] if tags else None))


def _made(place: Place, config: bytes, files: tuple[str, ...], name: str | None) -> Image:
    """The image whose manifest says what `manifest.json` says."""
    diff_ids = ImageConfig.parse(config).diff_ids
    if len(diff_ids) != len(files):
        raise ArchiveError(
            "manifest and configuration have different numbers of layers",
            manifest=len(files),
            configuration=len(diff_ids),
        )
    layers = [_layer(place, file, diff_id) for file, diff_id in zip(files, diff_ids, strict=True)]
    manifest = Manifest(config=Descriptor.of(CONFIG, config), layers=tuple(layers))
    names = {layer.digest: file for layer, file in zip(layers, files, strict=True)}
    return read_image(manifest.json(), _Named(place, names), name=name, config=config)


def _layer(place: Place, file: str, diff_id: str) -> Descriptor:
    """Describe a layer. One that is not compressed has the digest that its contents have."""
    size = place.size(file)
    if size is None:
        raise ArchiveError("image lacks a layer", name=file[:200])
    head = next(place.chunks(file), b"")
    compression = places.compression(head)
    if compression == "none":
        return Descriptor(media_type=layer_type("none"), digest=diff_id, size=size)
    found = hashlib.sha256()
    for chunk in place.chunks(file):
        found.update(chunk)
    return Descriptor(
        media_type=layer_type(compression), digest=f"sha256:{found.hexdigest()}", size=size
    )
