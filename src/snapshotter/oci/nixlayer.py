"""Layers of store paths: empty places for them, and annotations that name them.

Both forms of annotations are written: a numbered one for each path, which every version of
nix-snapshotter reads, and the path of a `closureInfo`, where there is one. A layer says that it is
complete when there is nothing in it but the places: then a snapshotter needs its blob for nothing.

Containerd carries the annotations of a layer as labels in one gRPC message, and a manifest may
have 4 MiB: so many paths make several layers, of `MAX_PATHS` each. With a `closureInfo` it is one
layer however many there are, and the numbered form is left out where it would be too large.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from snapshotter import labels
from snapshotter.oci import tar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import nixfetch

MAX_PATHS = 500  # of a layer; 60 KB of labels, and 150 KB at the very most
MAX_NUMBERED = 2 * 1024 * 1024  # bytes of numbered annotations beside a closureInfo
_STORE = (b"nix", b"nix/store")
_OVERHEAD = 64  # bytes of an annotation but for its value, as JSON has it


def groups(paths: Iterable[nixfetch.StorePath]) -> list[tuple[nixfetch.StorePath, ...]]:
    """The paths of each layer, where there is no `closureInfo`."""
    every = sorted(set(paths))
    return [tuple(every[start : start + MAX_PATHS]) for start in range(0, len(every), MAX_PATHS)]


def places(paths: Mapping[nixfetch.StorePath, bool]) -> list[tar.Entry]:
    """What is in such a layer.

    Args:
        paths: for each path, whether it is a file.
    """
    found = [tar.directory(name) for name in _STORE]
    for path in sorted(paths):
        name = str(path).encode().removeprefix(b"/")
        found.append(tar.file(name, mode=0o555) if paths[path] else tar.directory(name))
    return found


def diff_id(paths: Mapping[nixfetch.StorePath, bool]) -> str:
    """The digest of such a layer's archive, uncompressed; it follows from the paths alone.

    Args:
        paths: for each path, whether it is a file.
    """
    digest = hashlib.sha256()
    for chunk in tar.archive(places(paths)):
        digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def annotated(
    paths: Sequence[nixfetch.StorePath], *, closure: nixfetch.StorePath | None = None
) -> dict[str, str]:
    """What the descriptor of such a layer says.

    Args:
        paths: all of them.
        closure: a path whose file ``store-paths`` lists them all.
    """
    found = {labels.NIX_LAYER: "true", labels.NIX_LAYER_COMPLETE: "true"}
    size = sum(len(str(path)) + _OVERHEAD for path in paths)
    if closure is None or size <= MAX_NUMBERED:
        found |= {
            f"{labels.NIX_STORE_PATH}{number}": str(path) for number, path in enumerate(paths)
        }
    if closure is not None:
        found[labels.NIX_CLOSURE] = str(closure)
    return found
