"""The NAR of a path, made anew from the disk, and what it is compared with."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from nixfetch.formats.hashes import Hash
from nixfetch.formats.nar import NarWriter
from nixfetch.plan.content import content_check
from nixfetch.store import ContentMismatchError
from nixfetch.store.dump import UnsupportedFileError, dump

if TYPE_CHECKING:
    from nixfetch.formats.narinfo import NarInfo
    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.content import ContentCheck
    from nixfetch.streams.references import ReferenceScanner
    from nixfetch.verify.work import Stop


class Measured(NamedTuple):
    """What a tree on disk is."""

    nar_hash: Hash
    nar_size: int
    """Bytes."""


def measure(
    store_fd: int,
    path: StorePath,
    *,
    stop: Stop,
    content: ContentCheck | None = None,
    scanner: ReferenceScanner | None = None,
) -> Measured:
    """Read the tree of `path` in the store directory `store_fd`.

    Args:
        store_fd: the directory.
        path: it is there.
        stop: asked between two pieces.
        content: is shown all that passes; the caller asks for its verdict.
        scanner: is shown the bytes.

    Raises:
        DiskError, ChangedFileError: it cannot be read.
        ContentMismatchError: there is something that no NAR can hold.
        WrongContentError: what `content` raises on its way.
    """
    writer, state, size = NarWriter(), hashlib.sha256(), 0
    try:
        for event in dump(store_fd, path.base.encode()):
            stop.check()
            piece = writer.apply(event)
            state.update(piece)
            size += len(piece)
            if content is not None:
                content.update(bytes(piece))
                content.apply(event)
            if scanner is not None:
                scanner.update(bytes(piece))
    except UnsupportedFileError as error:
        file = error.facts.get("file")
        raise ContentMismatchError(error.problem, path=path, file=file) from error
    return Measured(Hash("sha256", state.digest()), size)


def check_content(store_fd: int, info: NarInfo, *, stop: Stop) -> None:
    """Whether the tree on disk is what `info` says, and what its content address says.

    Raises:
        ContentMismatchError, WrongContentError: it is not.
        DiskError, ChangedFileError: it cannot be read.
        UnsupportedHashError: its content address needs an extra that is not installed.
    """
    content = content_check(info, signed=True)
    found = measure(store_fd, info.path, stop=stop, content=content)
    compare(found, info)
    if content is not None:
        content.finish()


def compare(found: Measured, info: NarInfo) -> None:
    """Raises `ContentMismatchError` when a tree is not what `info` says."""
    if found != (info.nar_hash, info.nar_size):
        raise ContentMismatchError(
            "content is not what was registered",
            path=info.path,
            expected=str(info.nar_hash),
            actual=str(found.nar_hash),
            expected_size=info.nar_size,
            actual_size=found.nar_size,
        )
