"""An image of nothing but a store path: what to run, and on which machine, is found out.

    layers        nix layers of the closure; then users and /tmp
    entrypoint    the path itself where it is a program, or the one program of its ``bin``;
                  none where there are several: whoever runs it says which
    environment   PATH, with that ``bin``
    platform      that of most ELF files in ``bin`` and ``lib``, of the path itself if it has any,
                  else of the closure; the asker's own where there are none

Nothing of it depends on the machine that makes it, and its layers are not compressed: the same
path has the same digest everywhere.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from snapshotter.image.builder import Recipe, building
from snapshotter.imageref import NixReference
from snapshotter.oci import elf
from snapshotter.oci.config import Process

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import nixfetch
    from snapshotter.image.trees import Node, Trees
    from snapshotter.oci.image import Image
    from snapshotter.oci.model import Platform

_PROGRAMS = (b"bin", b"sbin", b"libexec", b"lib")


@contextmanager
def making(
    path: nixfetch.StorePath, trees: Trees, *, machine: Platform, scratch: Path | None = None
) -> Iterator[Image]:
    """Make the image of a store path; its blobs can be read within the block.

    Args:
        path: it; in the store, with all that it refers to.
        trees: of that store.
        machine: what the image is for, where no program says it.
        scratch: as `building` takes it.

    Raises:
        PreconditionError: the path is not in the store.
        NixfetchError: the store cannot be read.
    """
    with building(recipe(path, trees, machine=machine), trees, scratch=scratch) as image:
        yield image


def recipe(path: nixfetch.StorePath, trees: Trees, *, machine: Platform) -> Recipe:
    """What goes into the image of a store path: see `making`."""
    closure = trees.closure([path])
    return Recipe(
        paths=(path,),
        platform=platform_of(path, closure, trees) or machine,
        process=Process(entrypoint=_entrypoint(path, trees), environment=(f"PATH={path}/bin",)),
        users=True,
        compression="none",
        name=str(NixReference(path)),
    )


def _entrypoint(path: nixfetch.StorePath, trees: Trees) -> tuple[str, ...]:
    itself = trees.resolve(str(path).encode())
    if itself is not None and itself.is_program:
        return (str(path),)
    found = [
        f"{path}/bin/{name.decode()}"
        for name, node in _programs(path, b"bin", trees)
        if _is_typed(name) and node.is_program
    ]
    return (found[0],) if len(found) == 1 else ()


def _is_typed(name: bytes) -> bool:
    """Hidden ones are what wrappers wrap; others than UTF-8 no configuration can hold."""
    try:
        return not name.decode().startswith(".")
    except UnicodeDecodeError:
        return False


def platform_of(
    path: nixfetch.StorePath, closure: Iterable[nixfetch.StorePath], trees: Trees
) -> Platform | None:
    """For which machine a path is; None where nothing in its closure says it."""
    return _most([path], trees) or _most(closure, trees)


def _most(paths: Iterable[nixfetch.StorePath], trees: Trees) -> Platform | None:
    found: Counter[str] = Counter()
    platforms: dict[str, Platform] = {}
    for path in paths:
        for node in _files(path, trees):
            platform = elf.platform(node.head(elf.HEAD))
            if platform is not None:
                found[str(platform)] += 1
                platforms[str(platform)] = platform
    if not found:
        return None
    return platforms[min(found, key=lambda name: (-found[name], name))]


def _files(path: nixfetch.StorePath, trees: Trees) -> Iterator[Node]:
    itself = trees.top(path)
    if itself.is_file:
        yield itself
    for directory in _PROGRAMS:
        yield from (node for _, node in _programs(path, directory, trees) if node.is_file)


def _programs(
    path: nixfetch.StorePath, directory: bytes, trees: Trees
) -> Iterator[tuple[bytes, Node]]:
    """What is in a directory of a path, by name, and where links lead to."""
    for node in trees.listing(path, directory):
        name = node.name.rpartition(b"/")[2]
        logical = str(path).encode() + b"/" + directory + b"/" + name
        found = trees.resolve(logical) if node.is_link else node
        if found is not None:
            yield name, found
