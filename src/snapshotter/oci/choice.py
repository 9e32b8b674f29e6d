"""Which image of an index is meant: by name, and by the machine that is to run it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapshotter.oci.digests import ImageError
from snapshotter.oci.model import INDEXES, MANIFESTS, Descriptor, Index, Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MAX_DEPTH = 4  # indexes in one another; an index in an index.json is the most that is seen
MAX_INDEXES = 100  # that are read: the same may be named often, and name another often
NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
CHOICE = "name the image that is meant"
_ATTESTATION = "vnd.docker.reference.type"
_MOST_SHOWN = 20  # names in a message


@dataclass(frozen=True, slots=True)
class Candidate:
    """A manifest that an index names."""

    blob: Descriptor
    name: str | None = None
    platform: Platform | None = None


def flat(index: Index, read: Callable[[Descriptor], bytes]) -> list[Candidate]:
    """All images of an index, and of those within it.

    Args:
        index: the outermost.
        read: gives another one, checked against its descriptor.

    Raises:
        ImageError: one is none, or there are too many.
    """
    left = MAX_INDEXES

    def within(outer: Index, above: Candidate | None, depth: int) -> Iterator[Candidate]:
        nonlocal left
        for blob in outer.manifests:
            own = _candidate(blob, above)
            if blob.media_type in INDEXES:
                left -= 1
                if not (left and depth):
                    raise ImageError("too many indexes in one another", limit=MAX_INDEXES)
                yield from within(Index.parse(read(blob)), own, depth - 1)
            elif blob.media_type in MANIFESTS and _ATTESTATION not in blob.annotations:
                yield own

    return list(within(index, None, MAX_DEPTH))


def choose(
    every: Iterable[Candidate], *, platform: Platform | None = None, name: str | None = None
) -> Candidate:
    """The one image that is meant.

    Args:
        every: those that there are.
        platform: of the machine; of several that it runs, the one that makes the most of it.
        name: a whole reference, or a tag alone; None: all have to have the same.

    Raises:
        ImageError: none is meant, or more than one.
    """
    every = list(every)
    named = [each for each in every if name is None or _is_called(each.name, name)]
    if not named:
        raise ImageError("no such image there", name=name, images=_names(every), hint=CHOICE)
    if len({each.name for each in named}) > 1:
        raise ImageError("several images there", images=_names(named), hint=CHOICE)
    fitting = [each for each in named if _fits(each, platform)]
    platforms = sorted({str(each.platform) for each in named})
    if not fitting:
        raise ImageError("image is for other platforms", platforms=platforms, wanted=str(platform))
    unsaid = platform is None or any(each.platform is None for each in fitting)
    if unsaid and len({each.blob.digest for each in fitting}) > 1:
        raise ImageError(
            "several images there",
            platforms=platforms,
            hint="say which platform is meant, or which name",
        )
    return max(fitting, key=_level)


def _candidate(blob: Descriptor, above: Candidate | None) -> Candidate:
    name = blob.annotations.get(CONTAINERD_NAME) or blob.annotations.get(NAME)
    if above is None:
        return Candidate(blob, name, blob.platform)
    return Candidate(blob, name or above.name, blob.platform or above.platform)


def _fits(each: Candidate, platform: Platform | None) -> bool:
    return platform is None or each.platform is None or platform.runs(each.platform)


def _level(each: Candidate) -> int:
    return 0 if each.platform is None else each.platform.level


def _is_called(own: str | None, name: str) -> bool:
    return own is not None and (own == name or own.rpartition(":")[2] == name)


def _names(every: list[Candidate]) -> list[str]:
    return sorted({each.name or each.blob.digest for each in every})[:_MOST_SHOWN]
