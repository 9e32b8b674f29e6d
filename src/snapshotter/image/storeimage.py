"""What ``nix:0/nix/store/…`` means: an image that lies in the store, or a path made into one.

a tar archive, compressed or not; a directory with `oci-layout`      the image in it
anything else                                                        `bare`: the path itself
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import nixfetch
from snapshotter.image import archive, bare
from snapshotter.image.places import compression
from snapshotter.oci import tar
from snapshotter.oci.digests import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from snapshotter.image.trees import Node, Trees
    from snapshotter.imageref import NixReference
    from snapshotter.oci.image import Image
    from snapshotter.oci.model import Platform

_NAMES = (".tar", ".tar.gz", ".tar.zst", ".tar.xz")
_MAGIC = slice(257, 262)
_USTAR = b"ustar"


@contextmanager
def opening(
    reference: NixReference, trees: Trees, *, machine: Platform, scratch: Path | None = None
) -> Iterator[Image]:
    """Open the image that a reference names; its blobs can be read within the block.

    Args:
        reference: its path is in the store, with all that it refers to.
        trees: of that store.
        machine: that is to run it.
        scratch: where archives are unpacked and layers wait, in files without names.

    Raises:
        PreconditionError: the path is not in the store.
        ImageError: the archive is none, is damaged, or is for another platform; the image has
            another digest than the reference says.
        NixfetchError: the store cannot be read.
    """
    with ExitStack() as stack:
        trees.check([reference.path])
        top = trees.top(reference.path)
        if is_archive(top, reference.path.name):
            file = Path(os.fsdecode(top.physical))
            opened = archive.opening(file, platform=machine, scratch=scratch)
        else:
            opened = bare.making(reference.path, trees, machine=machine, scratch=scratch)
        image = stack.enter_context(opened)
        actual = image.descriptor.digest
        if reference.digest is not None and actual != reference.digest:
            with nixfetch.facts(path=str(reference.path)):
                raise ImageError(
                    "image has another digest", expected=reference.digest, actual=actual
                )
        yield image


def is_archive(top: Node, name: str) -> bool:
    """Whether a path of the store is an image already.

    Args:
        top: of its tree.
        name: of the path: what is called an archive is taken for one, and complained of.
    """
    if top.is_directory:
        return Path(os.fsdecode(top.physical), "oci-layout").is_file()
    if not top.is_file:
        return False
    head = top.head(tar.BLOCK)
    return name.endswith(_NAMES) or compression(head) != "none" or head[_MAGIC] == _USTAR
