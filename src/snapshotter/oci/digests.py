"""Digests of blobs, and streams that are checked against them. Knows no files."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

import nixfetch
from snapshotter.imageref import is_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class ImageError(nixfetch.FormatError):
    """An image, or a part of one, is not what it has to be."""


class BlobError(ImageError):
    """The bytes of a blob are not those that its descriptor promises."""


class Hasher(Protocol):
    """What `hashlib` makes."""

    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def digest(data: bytes) -> str:
    """``sha256:…`` of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def hasher(wanted: str) -> Hasher:
    """What computes digests of the kind of `wanted`.

    Raises:
        ImageError: it is no digest of a kind that is still believed.
    """
    if not is_digest(wanted):
        raise ImageError("not a digest that can be checked", digest=wanted[:150])
    return hashlib.new(wanted.partition(":")[0])


def verified(chunks: Iterable[bytes], *, digest: str, size: int) -> Iterator[bytes]:
    """Pass on the bytes of a blob; an error comes in place of its end when they are not it.

    Args:
        chunks: its bytes, cut anywhere.
        digest: that they must have.
        size: that they must have, in bytes; not one more is passed on.

    Raises, while it is iterated:
        BlobError: another digest, too few bytes, or more.
    """
    algorithm = digest.partition(":")[0]
    found, seen = hasher(digest), 0
    for chunk in chunks:
        seen += len(chunk)
        if seen > size:
            raise BlobError("blob is larger than it should be", digest=digest, expected=size)
        found.update(chunk)
        yield chunk
    if seen < size:
        raise BlobError("blob ends early", digest=digest, expected=size, received=seen)
    actual = f"{algorithm}:{found.hexdigest()}"
    if actual != digest:
        raise BlobError("blob has another digest", expected=digest, actual=actual)
