"""The labels of a layer that say which store paths it is made of; both forms that images have.

    containerd.io/snapshot/nix-layer = true             the layer is one of store paths
    containerd.io/snapshot/nix-store-path.<N>           a path; all of them are the closure
    containerd.io/snapshot/nix-closure                  a path whose file `store-paths` lists the
                                                        closure (`closureInfo` of Nixpkgs)
    containerd.io/snapshot/nix-layer-complete = true    of our builder: the labels say all that is
                                                        in the layer, whose blob nobody needs
    containerd.io/snapshot.ref                          containerd's: what the layer will be called

Whoever makes an image writes these: nothing of them is believed but that it is a store path, in
the one form that there is. What looks like ours and is not that is refused, also in a layer that
does not say `nix-layer`: whatever reads it without a second look would mount it.

Source: nix-snapshotter, pkg/nix2container/types.go, for the names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import nixfetch
from snapshotter.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

NIX_LAYER = "containerd.io/snapshot/nix-layer"
NIX_STORE_PATH = "containerd.io/snapshot/nix-store-path."
NIX_CLOSURE = "containerd.io/snapshot/nix-closure"
NIX_LAYER_COMPLETE = "containerd.io/snapshot/nix-layer-complete"
SNAPSHOT_REF = "containerd.io/snapshot.ref"

MAX_PATHS = 20_000  # of a layer: 2 MB of labels; what is larger has a `nix-closure`
MAX_VALUE = 255  # bytes; the longest store path has 255
MAX_REF = 4096  # bytes; containerd's limit for a label
_SHOWN = 100  # characters of a bad value in a message
_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,8})\Z")
_TRUE = "true"


@dataclass(frozen=True, slots=True)
class NixLayer:
    """A layer of store paths, as its labels have it: well-formed, and nothing more."""

    paths: tuple[nixfetch.StorePath, ...]
    """By their numbers, each once. What they refer to may be missing."""
    closure: nixfetch.StorePath | None = None
    """The path whose file `store-paths` lists more of them."""
    complete: bool = False
    """Whether the labels describe all that is in the layer."""
    ref: str | None = None
    """What the layer is to be called, when its blob is not needed."""


def parse(labels: Mapping[str, str]) -> NixLayer | None:
    """Read the labels of a snapshot.

    Returns:
        What they say of store paths; None for an ordinary layer.

    Raises:
        InvalidArgumentError: they are not what a builder of images writes. Carries `label`.
    """
    is_layer = _flag(labels, NIX_LAYER)
    complete = _flag(labels, NIX_LAYER_COMPLETE)
    closure = _store_path(NIX_CLOSURE, labels[NIX_CLOSURE]) if NIX_CLOSURE in labels else None
    paths = _paths(labels)
    if not is_layer and closure is None:
        for label in (*([NIX_LAYER_COMPLETE] if complete else []), *_path_labels(labels)):
            raise InvalidArgumentError(
                "label of a nix layer on a layer that is none",
                label=_shown(label),
                lacking=NIX_LAYER,
            )
        return None
    return NixLayer(paths, closure, complete, _ref(labels))


def is_ours(label: str) -> bool:
    """Whether a label says something about store paths."""
    return label in {NIX_LAYER, NIX_CLOSURE, NIX_LAYER_COMPLETE} or label.startswith(
        NIX_STORE_PATH.removesuffix(".")
    )


def _flag(labels: Mapping[str, str], label: str) -> bool:
    """Whether a label is there; it has one value."""
    value = labels.get(label)
    if value not in {None, _TRUE}:
        raise InvalidArgumentError(
            "label has a value that it cannot have", label=label, value=_shown(value or "")
        )
    return value is not None


def _path_labels(labels: Mapping[str, str]) -> list[str]:
    stem = NIX_STORE_PATH.removesuffix(".")
    return [label for label in labels if label.startswith(stem)]


def _paths(labels: Mapping[str, str]) -> tuple[nixfetch.StorePath, ...]:
    found = _path_labels(labels)
    if len(found) > MAX_PATHS:
        raise InvalidArgumentError(
            "layer has too many store paths", paths=len(found), limit=MAX_PATHS
        )
    numbered = sorted((_number(label), label) for label in found)
    return tuple(dict.fromkeys(_store_path(label, labels[label]) for _, label in numbered))


def _number(label: str) -> int:
    digits = label.removeprefix(NIX_STORE_PATH)
    if _NUMBER.match(digits) is None:
        raise InvalidArgumentError("label of a store path has no number", label=_shown(label))
    return int(digits)


def _store_path(label: str, value: str) -> nixfetch.StorePath:
    if len(value) > MAX_VALUE:
        raise InvalidArgumentError(
            "label is too long for a store path", label=label, size=len(value), limit=MAX_VALUE
        )
    try:
        return nixfetch.StorePath.parse_full(value)
    except nixfetch.FormatError as error:
        raise InvalidArgumentError(
            "label is no store path", label=label, value=_shown(value), reason=error.problem
        ) from error


def _ref(labels: Mapping[str, str]) -> str | None:
    ref = labels.get(SNAPSHOT_REF)
    if ref is not None and (not ref or len(ref) > MAX_REF or not ref.isprintable()):
        raise InvalidArgumentError(
            "label has a value that it cannot have", label=SNAPSHOT_REF, value=_shown(ref)
        )
    return ref


def _shown(text: str) -> str:
    """A value that anybody may have written, for a message: one short line of ASCII."""
    return ascii(text[:_SHOWN]) + ("…" if len(text) > _SHOWN else "")
