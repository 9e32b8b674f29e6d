"""Layers looked into before anybody unpacks them: what they hold, and whether it is what they say.

A layer is read through once: its digest and size as it travels, its size and digest unpacked, the
names of its members. Whatever unpacks it is spared bombs and names that lead out of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import nixfetch
from snapshotter.image.places import MAX_UNPACKED, Counted, bounded
from snapshotter.oci import tar
from snapshotter.oci.digests import ImageError, hasher
from snapshotter.oci.model import compression_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from snapshotter.oci.image import Image

__all__ = ["LayerError", "Looked", "look", "look_all", "unpacked"]


class LayerError(ImageError):
    """What is in a layer is not to be unpacked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What was seen of a layer."""

    size: int
    """Bytes, unpacked."""
    members: int


def look_all(image: Image, *, limit: int = MAX_UNPACKED) -> tuple[Looked, ...]:
    """Look into all layers of an image.

    Args:
        image: it.
        limit: bytes that all of them may unpack to.

    Raises:
        ImageError: a layer is not what the manifest and the configuration say, unpacks to too
            much, or has a member that would not stay within it.
    """
    found: list[Looked] = []
    for number in range(len(image.manifest.layers)):
        seen = look(image, number, limit=limit)
        limit -= seen.size
        found.append(seen)
    return tuple(found)


def look(image: Image, number: int, *, limit: int = MAX_UNPACKED) -> Looked:
    """Look into the layer of that number, from 0: see `look_all`."""
    with nixfetch.facts(layer=image.manifest.layers[number].digest):
        counted = Counted(unpacked(image, number, limit=limit))
        chunks = tar.Chunks(counted)
        members = 0
        for member in tar.members(chunks):
            members += 1
            _check(member)
        chunks.drain()
        return Looked(size=counted.size, members=members)


def unpacked(image: Image, number: int, *, limit: int = MAX_UNPACKED) -> Iterator[bytes]:
    """The tar archive that the layer of that number is, checked as it comes.

    Raises, while it is iterated:
        ImageError: it is not what the manifest and the configuration say; instead of its end.
        BombError: it is larger than `limit` bytes, or out of all proportion.
    """
    layer, diff_id = image.manifest.layers[number], image.config.diff_ids[number]
    packed = Counted(image.chunks(layer))
    found = hasher(diff_id)
    decoded = nixfetch.decode(compression_of(layer.media_type), packed)
    for chunk in bounded(decoded, packed, limit=limit):
        found.update(chunk)
        yield chunk
    actual = f"{diff_id.partition(':')[0]}:{found.hexdigest()}"
    if actual != diff_id:
        raise LayerError("layer has another content", expected=diff_id, actual=actual)


def _check(member: tar.Member) -> None:
    """Names may begin with a slash, for unpackers take them from the layer's own root."""
    names = [member.name, member.link] if member.kind == tar.HARD_LINK else [member.name]
    for name in names:
        if b".." in name.split(b"/"):
            raise LayerError(
                "name leads out of the layer",
                name=ascii(name[:200].decode(errors="backslashreplace")),
            )
