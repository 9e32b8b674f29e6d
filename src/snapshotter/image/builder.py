"""Images from store paths. Two builds of one recipe from one closure give the same bytes.

    base layers            as they are, with their media types and annotations (of Docker's media
                           types, which mean the same, OCI's names)
    store paths            nix layers: empty places and annotations; or plain: the files themselves
    users                  /etc/passwd and /tmp, where they are asked for
    copy to root           links from / into store paths, in a layer of its own without annotations

The order matters: containerd fetches all layers from the first one on that it has to unpack, so
that nix layers below all others are asked of no registry.

What depends on nothing but its contents: names are sorted, owners are root, times are fixed. With
the compression "none" the bytes do not depend on libraries either.
"""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING

import nixfetch
from snapshotter.errors import InvalidArgumentError
from snapshotter.oci import nixlayer, tar
from snapshotter.oci.compression import compressed
from snapshotter.oci.config import EPOCH, ImageConfig, Process
from snapshotter.oci.digests import ImageError, verified
from snapshotter.oci.image import Image, read_image
from snapshotter.oci.model import CONFIG, Descriptor, Manifest, Platform, layer_type, oci_layer_type

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from snapshotter.image.trees import Node, Trees
    from snapshotter.oci.image import Blobs

MAX_PLAIN_LAYERS = 64  # of a plain image; half of what an image may have
IN_MEMORY = 4 * 1024 * 1024  # bytes of a layer until it goes to a file
PIECE = 1024 * 1024  # bytes read at a time
MTIME = 1  # seconds since 1970, of store paths; Python takes its compiled files for stale otherwise
_NOT_COPIED = b"nix-support"  # what Nix keeps for itself, in many paths; buildEnv leaves it out too
_BASE_NAME = "org.opencontainers.image.base.name"
_BASE_DIGEST = "org.opencontainers.image.base.digest"
_PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
_GROUP = b"root:x:0:\nnobody:x:65534:\n"
_NSSWITCH = b"passwd: files\ngroup: files\nhosts: files dns\n"


class RecipeError(InvalidArgumentError):
    """No image can be made like that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What goes into an image."""

    paths: tuple[nixfetch.StorePath, ...]
    """With all that they refer to."""
    platform: Platform
    process: Process = field(default_factory=Process)
    copy_to_root: tuple[nixfetch.StorePath, ...] = ()
    """Paths whose contents appear below ``/`` as links; part of the closure too."""
    closure_info: nixfetch.StorePath | None = None
    """A `closureInfo` of Nixpkgs: its file ``store-paths`` lists the closure."""
    users: bool = False
    """Whether there is a layer with users and /tmp."""
    plain: bool = False
    """Whether the layers hold the files of the closure, for runtimes that know no store."""
    compression: str = "gzip"
    base: Image | None = None
    name: str | None = None


@contextmanager
def building(recipe: Recipe, trees: Trees, *, scratch: Path | None = None) -> Iterator[Image]:
    """Build an image; its blobs can be read within the block.

    Args:
        recipe: what goes into it.
        trees: of a store that has all of it.
        scratch: where layers wait that are too large for memory, in files without names.

    Raises:
        PreconditionError: a path is not in the store.
        RecipeError: the recipe contradicts itself or the store.
        ImageError: the manifest would be too large.
        NixfetchError: the store, or the base image, cannot be read.
    """
    with ExitStack() as stack:
        maker = _Maker(recipe.compression, stack, scratch)
        for entries, annotations in _layers(recipe, trees):
            maker.make(entries, annotations)
        config = _config(recipe, maker.diff_ids).json()
        base = recipe.base.manifest.layers if recipe.base else ()
        manifest = Manifest(
            config=Descriptor.of(CONFIG, config),
            layers=(*map(_kept, base), *maker.layers),
            annotations=_annotations(recipe.base),
        )
        blobs = _Built(maker.files, recipe.base)
        yield read_image(manifest.json(), blobs, name=recipe.name, config=config)


Layer = tuple["Iterable[tar.Entry]", "Mapping[str, str]"]


def _layers(recipe: Recipe, trees: Trees) -> Iterator[Layer]:
    wanted = {*recipe.paths, *recipe.copy_to_root}
    if recipe.closure_info is not None:
        trees.check([recipe.closure_info])
        if recipe.plain:
            raise RecipeError("a plain image has no use for a closureInfo")
    closure = trees.closure(wanted)
    if recipe.plain:
        yield from ((_files(group, trees), {}) for group in _plain_groups(closure, trees))
    elif recipe.closure_info is not None:
        listed = _listed(recipe.closure_info, closure, trees)
        yield _places(listed, trees), nixlayer.annotated(listed, closure=recipe.closure_info)
    else:
        for group in nixlayer.groups(closure):
            yield _places(group, trees), nixlayer.annotated(group)
    if recipe.users:
        yield _users(), {}
    if recipe.copy_to_root:
        yield _copied(recipe.copy_to_root, trees), {}


def _places(paths: Sequence[nixfetch.StorePath], trees: Trees) -> list[tar.Entry]:
    return nixlayer.places({path: trees.is_file(path) for path in paths})


def _users() -> list[tar.Entry]:
    return tar.in_order(
        [
            tar.directory(b"etc"),
            tar.file(b"etc/group", _GROUP),
            tar.file(b"etc/nsswitch.conf", _NSSWITCH),
            tar.file(b"etc/passwd", _PASSWD),
            tar.directory(b"root", 0o700),
            tar.directory(b"tmp", 0o1777),
        ]
    )


def _listed(
    info: nixfetch.StorePath, closure: Sequence[nixfetch.StorePath], trees: Trees
) -> tuple[nixfetch.StorePath, ...]:
    """The paths that a `closureInfo` lists, which are all that the image needs.

    Source: Nixpkgs, pkgs/build-support/closure-info.nix.
    """
    file = trees.resolve(f"{info}/store-paths".encode())
    if file is None or not file.is_file:
        raise RecipeError("not a closureInfo: it has no file store-paths", path=str(info))
    lines = b"".join(file.chunks()).decode("ascii", "replace").split()
    with nixfetch.facts(path=str(info)):
        listed = {nixfetch.StorePath.parse_full(line) for line in lines}
    missing = sorted(set(closure) - listed)
    if missing:
        raise RecipeError(
            "closureInfo is of another closure",
            path=str(info),
            missing=[str(path) for path in missing[:10]],
            hint="make it of the very paths that the image is made of",
        )
    trees.check(listed)
    return tuple(sorted(listed))


# Plain layers.


def _plain_groups(
    closure: Sequence[nixfetch.StorePath], trees: Trees
) -> list[tuple[nixfetch.StorePath, ...]]:
    """Large paths have a layer each, so that images share them; the rest have one together."""
    large = sorted(closure, key=lambda path: (-trees.size(path), path))[: MAX_PLAIN_LAYERS - 1]
    rest = tuple(sorted(set(closure) - set(large)))
    return [*((path,) for path in sorted(large)), *([rest] if rest else [])]


def _files(paths: Sequence[nixfetch.StorePath], trees: Trees) -> Iterator[tar.Entry]:
    yield tar.directory(b"nix")
    yield tar.directory(b"nix/store")
    for path in paths:
        top = str(path).encode().removeprefix(b"/")
        for node in trees.walk(path):
            yield _entry(top + b"/" + node.name if node.name else top, node)


def _entry(name: bytes, node: Node) -> tar.Entry:
    """As Nix would have it: nothing is writable, and there is no time."""
    if node.is_directory:
        return tar.directory(name, 0o555, mtime=MTIME)
    if node.is_link:
        return tar.link(name, node.target(), mtime=MTIME)
    return tar.Entry(
        name=name,
        mode=0o555 if node.is_program else 0o444,
        size=node.size,
        mtime=MTIME,
        data=node.chunks(),
    )


# Copy to root.


def _copied(paths: Sequence[nixfetch.StorePath], trees: Trees) -> list[tar.Entry]:
    """Directories, and links to whatever else there is."""
    found: dict[bytes, tar.Entry] = {}
    for path in paths:
        if not trees.top(path).is_directory:
            raise RecipeError("only directories can be copied to the root", path=str(path))
        for node in trees.walk(path):
            if not node.name or node.name.split(b"/")[0] == _NOT_COPIED:
                continue
            if node.name == b"nix/store" or node.name.startswith(b"nix/store/"):
                raise RecipeError("store paths cannot be copied over the store", path=str(path))
            entry = _link_to(node, path)
            if found.setdefault(node.name, entry) != entry:
                raise _conflict(node.name, found[node.name], path)
    return tar.in_order(found.values())


def _link_to(node: Node, path: nixfetch.StorePath) -> tar.Entry:
    if node.is_directory:
        return tar.directory(node.name)
    return tar.link(node.name, str(path).encode() + b"/" + node.name)


def _conflict(name: bytes, first: tar.Entry, path: nixfetch.StorePath) -> RecipeError:
    return RecipeError(
        "two of the paths to be copied have it",
        name="/" + name.decode(errors="backslashreplace"),
        first=first.link.decode(errors="backslashreplace") or "a directory",
        second=str(path),
    )


# The image.


class _Maker:
    """Makes layers, one after the other."""

    def __init__(self, compression: str, stack: ExitStack, scratch: Path | None) -> None:
        self._compression = compression
        self._media_type = layer_type(compression)
        self._stack, self._scratch = stack, scratch
        self.diff_ids: list[str] = []
        self.layers: list[Descriptor] = []
        self.files: dict[str, IO[bytes]] = {}

    def make(self, entries: Iterable[tar.Entry], annotations: Mapping[str, str]) -> None:
        diff, blob, size = hashlib.sha256(), hashlib.sha256(), 0
        file = self._stack.enter_context(_waiting(self._scratch))
        for chunk in compressed(self._compression, _noted(tar.archive(entries), diff)):
            blob.update(chunk)
            size += len(chunk)
            _write(file, chunk)
        digest = f"sha256:{blob.hexdigest()}"
        self.files[digest] = file
        self.diff_ids.append(f"sha256:{diff.hexdigest()}")
        self.layers.append(
            Descriptor(
                media_type=self._media_type, digest=digest, size=size, annotations=annotations
            )
        )


def _waiting(scratch: Path | None) -> IO[bytes]:
    """A file for a layer, in memory as long as it is small."""
    folder = None if scratch is None else str(scratch)
    return tempfile.SpooledTemporaryFile(max_size=IN_MEMORY, dir=folder)


def _noted(chunks: Iterable[bytes], found: hashlib._Hash) -> Iterator[bytes]:
    for chunk in chunks:
        found.update(chunk)
        yield chunk


def _write(file: IO[bytes], chunk: bytes) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        raise nixfetch.StoreError("no room for a layer", reason=error.strerror) from error


@dataclass(frozen=True, slots=True)
class _Built:
    """Blobs that were just made, and those of the base image."""

    files: Mapping[str, IO[bytes]]
    base: Blobs | None

    def chunks(self, blob: Descriptor) -> Iterator[bytes]:
        file = self.files.get(blob.digest)
        if file is not None:
            return verified(_read(file), digest=blob.digest, size=blob.size)
        if self.base is None:
            raise ImageError("image lacks a blob", digest=blob.digest)
        return self.base.chunks(blob)


def _read(file: IO[bytes]) -> Iterator[bytes]:
    offset = 0
    while True:
        file.seek(offset)  # others may have read in between
        data = file.read(PIECE)
        if not data:
            return
        offset += len(data)
        yield data


def _config(recipe: Recipe, diff_ids: Sequence[str]) -> ImageConfig:
    ours = tuple({"created": EPOCH, "created_by": "nixfetch-snapshotter"} for _ in diff_ids)
    if recipe.base is None:
        return ImageConfig(
            platform=recipe.platform,
            diff_ids=tuple(diff_ids),
            process=recipe.process,
            history=ours,
        )
    base = recipe.base.config
    if not recipe.platform.runs(base.platform):
        raise RecipeError(
            "base image is for another platform",
            base=str(base.platform),
            wanted=str(recipe.platform),
        )
    return ImageConfig(
        platform=base.platform,
        diff_ids=(*base.diff_ids, *diff_ids),
        process=recipe.process.over(base.process),
        # Tools refuse a history that is not that of the layers; none at all is fine.
        history=(*base.history, *ours) if base.history_fits else (),
    )


def _kept(layer: Descriptor) -> Descriptor:
    return replace(layer, media_type=oci_layer_type(layer.media_type))


def _annotations(base: Image | None) -> dict[str, str]:
    if base is None:
        return {}
    found = {**base.manifest.annotations, _BASE_DIGEST: base.descriptor.digest}
    return {**found, _BASE_NAME: base.name} if base.name else found
