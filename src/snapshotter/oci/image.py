"""An image whose parts can be read: from an archive, a directory, a registry, or just made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from snapshotter.oci.config import ImageConfig
from snapshotter.oci.digests import ImageError, digest, verified
from snapshotter.oci.model import CONFIGS, MAX_MANIFEST, Descriptor, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from snapshotter.oci.model import Platform


class Blobs(Protocol):
    """Where the blobs of an image are."""

    def chunks(self, blob: Descriptor) -> Iterator[bytes]:
        """Read one blob, from its start.

        Raises, while it is iterated:
            BlobError: its bytes are not what `blob` promises; instead of their end.
            NixfetchError: it cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image, for one platform."""

    manifest: Manifest
    manifest_bytes: bytes
    """As they came: the digest of the image is that of these."""
    config: ImageConfig
    config_bytes: bytes
    blobs: Blobs
    """Has the layers; `chunks` of an image has its configuration too."""
    name: str | None = None
    """The reference that the image came under, where it had one."""

    @property
    def descriptor(self) -> Descriptor:
        """Of the manifest."""
        return Descriptor.of(self.manifest.media_type, self.manifest_bytes)

    @property
    def id(self) -> str:
        """The digest of the configuration, as CRI names images."""
        return self.manifest.config.digest

    def chunks(self, blob: Descriptor) -> Iterator[bytes]:
        """A layer of the image, or its configuration: `Blobs.chunks`."""
        if blob.digest == self.manifest.config.digest:
            return iter((self.config_bytes,))
        return self.blobs.chunks(blob)

    def chain_ids(self) -> list[str]:
        """By layer: what names it together with all that is below it.

        Source: opencontainers/image-spec, config.md, "Layer ChainID".
        """
        found: list[str] = []
        for diff_id in self.config.diff_ids:
            found.append(digest(f"{found[-1]} {diff_id}".encode()) if found else diff_id)
        return found


def read_image(
    manifest_bytes: bytes, blobs: Blobs, *, name: str | None = None, config: bytes | None = None
) -> Image:
    """Put an image together: read its configuration, and check that both are of one image.

    Args:
        manifest_bytes: the manifest, already checked against the digest it was asked for by.
        blobs: has the configuration.
        name: the reference that it came under.
        config: the configuration, where it is at hand.

    Raises:
        ImageError: it is no image for containers, or its parts do not go together.
    """
    manifest = Manifest.parse(manifest_bytes)
    if manifest.config.media_type not in CONFIGS:
        raise ImageError("not an image for containers", media_type=manifest.config.media_type[:150])
    if manifest.config.size > MAX_MANIFEST:
        raise ImageError(
            "configuration is too large", size=manifest.config.size, limit=MAX_MANIFEST
        )
    if config is None:
        config = b"".join(blobs.chunks(manifest.config))
    else:
        b"".join(verified((config,), digest=manifest.config.digest, size=manifest.config.size))
    parsed = ImageConfig.parse(config)
    if len(parsed.diff_ids) != len(manifest.layers):
        raise ImageError(
            "manifest and configuration have different numbers of layers",
            manifest=len(manifest.layers),
            configuration=len(parsed.diff_ids),
        )
    return Image(
        manifest=manifest,
        manifest_bytes=manifest_bytes,
        config=parsed,
        config_bytes=config,
        blobs=blobs,
        name=name,
    )


def check_platform(image: Image, machine: Platform) -> None:
    """Make sure that a machine could run an image.

    Raises:
        ImageError: it is for another platform.
    """
    if not machine.runs(image.config.platform):
        raise ImageError(
            "image is for another platform",
            platform=str(image.config.platform),
            wanted=str(machine),
        )
