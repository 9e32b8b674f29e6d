"""Descriptors, manifests and indexes: what an image is made of. Knows no bytes of layers.

What is read is checked and bounded; of what is not known here, annotations are kept and the rest
is dropped. Whoever hands a manifest on as it came keeps its bytes: its digest is theirs.

Source: opencontainers/image-spec, descriptor.md, manifest.md, image-index.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from snapshotter.oci.digests import ImageError, digest, hasher
from snapshotter.oci.reading import DocumentError, Fields, canonical

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_MANIFEST = 4 * 1024 * 1024  # bytes; what registries and containerd take
MAX_LAYERS = 128  # overlayfs has 500 lower directories; Docker's limit is 127
MAX_MANIFESTS = 1000  # of an index
MAX_ANNOTATIONS = 25_000  # of a descriptor; a layer of store paths has one for each

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_DOCKER_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"

INDEXES = frozenset({INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({MANIFEST, DOCKER_MANIFEST})
CONFIGS = frozenset({CONFIG, DOCKER_CONFIG})
_LAYERS = (
    (LAYER, "+"),
    ("application/vnd.oci.image.layer.nondistributable.v1.tar", "+"),
    (DOCKER_LAYER, "."),
    ("application/vnd.docker.image.rootfs.foreign.diff.tar", "."),
)
COMPRESSIONS = ("none", "gzip", "zstd")
_COMPRESSION_OF = {stem: "none" for stem, _ in _LAYERS} | {
    f"{stem}{dot}{compression}": compression
    for stem, dot in _LAYERS
    for compression in COMPRESSIONS[1:]
}


def layer_type(compression: str) -> str:
    """The media type of a layer of ours: "none", "gzip" or "zstd"."""
    return LAYER if compression == "none" else f"{LAYER}+{compression}"


def oci_layer_type(media_type: str) -> str:
    """OCI's name for a media type of a layer, where it is one of Docker's; else as it is.

    Of a manifest that has both, some tools take neither.

    Source: opencontainers/image-spec, media-types.md, "Compatibility Matrix".
    """
    for ours, dockers in ((_LAYERS[0], _LAYERS[2]), (_LAYERS[1], _LAYERS[3])):
        if media_type in {dockers[0], f"{dockers[0]}.gzip", f"{dockers[0]}.zstd"}:
            return ours[0] + media_type.removeprefix(dockers[0]).replace(".", "+")
    return media_type


def compression_of(media_type: str) -> str:
    """How a layer of that media type is compressed: "none", "gzip" or "zstd".

    Raises:
        ImageError: it is no type of a layer that anybody here could unpack.
    """
    found = _COMPRESSION_OF.get(media_type)
    if found is None:
        raise ImageError(
            "no media type of a layer",
            media_type=media_type[:150],
            hint="layers are tar archives, plain or compressed with gzip or zstd",
        )
    return found


@dataclass(frozen=True, slots=True)
class Platform:
    """What a machine has to be, to run an image."""

    os: str
    architecture: str
    """As Go names it: ``amd64``, ``arm64``, …"""
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read ``linux/arm64`` or ``linux/arm/v7``.

        Raises:
            ImageError: it is neither.
        """
        parts = text.split("/")
        if len(parts) not in {2, 3} or not all(part and part.isalnum() for part in parts):
            raise ImageError("not a platform", text=text[:100], hint="such as linux/amd64")
        return cls(*parts)

    @classmethod
    def read(cls, fields: Fields) -> Platform:
        """Of the platform of a descriptor, or of a configuration."""
        return cls(
            fields.text("os", ""), fields.text("architecture", ""), fields.text("variant", "")
        )

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    def document(self) -> dict[str, str]:
        """As it stands in JSON."""
        whole = {"architecture": self.architecture, "os": self.os, "variant": self.variant}
        return {name: value for name, value in whole.items() if value}

    def runs(self, image: Platform) -> bool:
        """Whether this machine runs an image for that platform."""
        if (self.os, self.architecture) != (image.os, image.architecture):
            return False
        return self.level >= image.level

    @property
    def level(self) -> int:
        """The level of an architecture that has levels; each runs what is for the ones below."""
        usual = {"arm": "v7", "arm64": "v8", "amd64": "v1"}.get(self.architecture, "")
        digits = (self.variant or usual).removeprefix("v")
        return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 4 else 0  # noqa: PLR2004 - no level has four digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A blob by its digest, and what it is."""

    media_type: str
    digest: str
    size: int
    """Bytes."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    """Where else the blob is: of layers that registries do not have."""

    @classmethod
    def of(
        cls, media_type: str, data: bytes, annotations: Mapping[str, str] | None = None
    ) -> Descriptor:
        """Describe a blob."""
        return cls(
            media_type=media_type,
            digest=digest(data),
            size=len(data),
            annotations=annotations or {},
        )

    @classmethod
    def read(cls, fields: Fields) -> Descriptor:
        """Of JSON.

        Raises:
            DocumentError: a member is missing, or is what it cannot be.
            ImageError: its digest is none.
        """
        found = fields.text("digest")
        with_place = fields.at("digest")
        try:
            hasher(found)
        except ImageError as error:
            raise DocumentError(error.problem, place=with_place, digest=found[:150]) from error
        annotations = fields.mapping("annotations")
        if len(annotations) > MAX_ANNOTATIONS:
            raise DocumentError("too many annotations", place=fields.place, limit=MAX_ANNOTATIONS)
        platform = fields.child("platform")
        return cls(
            media_type=fields.text("mediaType"),
            digest=found,
            size=fields.number("size"),
            annotations=annotations,
            platform=Platform.read(platform) if platform else None,
            urls=fields.texts("urls", 100),
        )

    def document(self) -> dict[str, Any]:
        """As it stands in JSON."""
        found: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size,
        }
        if self.annotations:
            found["annotations"] = dict(self.annotations)
        if self.platform:
            found["platform"] = self.platform.document()
        if self.urls:
            found["urls"] = list(self.urls)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The configuration of an image, and its layers from the lowest up."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = MANIFEST
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Read a manifest of OCI, or one of Docker's schema 2.

        Raises:
            DocumentError: it is neither, or larger than may be.
        """
        fields = Fields.parse(data, what="manifest", limit=MAX_MANIFEST)
        media_type = _checked_type(fields, MANIFESTS, default=MANIFEST)
        config = fields.child("config")
        if config is None:
            raise DocumentError("manifest has no configuration", place=fields.at("config"))
        return cls(
            config=Descriptor.read(config),
            layers=tuple(map(Descriptor.read, fields.each("layers", MAX_LAYERS))),
            media_type=media_type,
            annotations=fields.mapping("annotations"),
        )

    def json(self) -> bytes:
        """The one way in which we write it.

        Raises:
            ImageError: it is larger than a registry would take, or has too many layers.
        """
        if len(self.layers) > MAX_LAYERS:
            raise ImageError("image has too many layers", found=len(self.layers), limit=MAX_LAYERS)
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": self.config.document(),
            "layers": [layer.document() for layer in self.layers],
        }
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        data = canonical(document)
        if len(data) > MAX_MANIFEST:
            raise ImageError(
                "manifest is too large",
                size=len(data),
                limit=MAX_MANIFEST,
                hint="with a closureInfo (`--closure PATH`) one label says what the others do",
            )
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Manifests, for a platform each."""

    manifests: tuple[Descriptor, ...]
    media_type: str = INDEX
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> Index:
        """Read an index of OCI, or a manifest list of Docker's.

        Raises:
            DocumentError: it is neither, or larger than may be.
        """
        fields = Fields.parse(data, what="index", limit=MAX_MANIFEST)
        return cls(
            media_type=_checked_type(fields, INDEXES, default=INDEX),
            manifests=tuple(map(Descriptor.read, fields.each("manifests", MAX_MANIFESTS))),
            annotations=fields.mapping("annotations"),
        )

    def json(self) -> bytes:
        """The one way in which we write it."""
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "manifests": [manifest.document() for manifest in self.manifests],
        }
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return canonical(document)


def _checked_type(fields: Fields, allowed: frozenset[str], *, default: str) -> str:
    """The media type of a document; one that lies about its type could be read as two things.

    Source: CVE-2021-41190, documents that are an index and a manifest at the same time.
    """
    version = fields.number("schemaVersion", 2)
    if version != 2:  # noqa: PLR2004 - the only one there is
        raise DocumentError(
            "schema of a manifest that is too old", place=fields.place, version=version
        )
    found = fields.text("mediaType", default)
    if found not in allowed:
        raise DocumentError("not the media type that it should be", place=fields.place, found=found)
    both = "manifests" if allowed is MANIFESTS else "layers"
    if both in fields.members:
        raise DocumentError("index and manifest at the same time", place=fields.at(both))
    return found
