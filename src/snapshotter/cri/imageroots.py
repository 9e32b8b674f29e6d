"""Roots of store paths that are images: kept as long as containerd has the image.

    image-<instance>-<hash part>          a set of roots, below those of `substitute`
    image-<instance>-<hash part>-layers   while it is made: what its layers need, until they have
                                          roots of their own

Knows which images there are from whoever asks containerd; decides only what is kept.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import nixfetch
from snapshotter.imageref import NIX_HOST, ImageReferenceError, NixReference, parse
from snapshotter.labels import NixLayer
from snapshotter.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

PATTERN = f"^{NIX_HOST}/"
"""What the names of images of the store begin with, as a regular expression."""

_LAYERS = "-layers"

_log = logging.getLogger(__name__)


class Closures(Protocol):
    """Store paths on this machine, and their roots; see `substitute.Substitute`."""

    def ensure(
        self, layer: NixLayer, *, root: str, cancelled: Callable[[], bool]
    ) -> tuple[nixfetch.StorePath, ...]:
        """Have the whole closure of a path present and rooted; an error leaves no root."""

    def unroot(self, name: str) -> None:
        """Protect it no longer."""

    def roots(self) -> set[str]:
        """The names of all roots."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A path that is kept while the image of it is made."""

    closures: Closures
    closure: frozenset[nixfetch.StorePath]
    root: str
    cancelled: Callable[[], bool]

    def also(self, layers: Collection[NixLayer]) -> None:
        """Have what the layers of the image need, in as few fetches as can be.

        A snapshotter would do it layer by layer, and has begun with one when nobody wants it any
        more.

        Raises:
            CancelledError: whoever waited has given up.
            NixfetchError: it cannot be had.
        """
        plain = (path for layer in layers if layer.closure is None for path in layer.paths)
        lacking = tuple(dict.fromkeys(path for path in plain if path not in self.closure))
        wanted = [NixLayer(lacking)] if lacking else []
        wanted += [layer for layer in layers if layer.closure is not None]
        for layer in wanted:
            self.closures.ensure(layer, root=self.root, cancelled=self.cancelled)


class ImageRoots:
    """The roots of the images of one daemon. Safe to share among threads."""

    def __init__(self, closures: Closures, instance: str) -> None:
        """No images yet but those that have roots.

        Args:
            closures: has the paths and keeps the roots.
            instance: whose roots they are: several daemons may share a store.
        """
        self._closures, self._prefix = closures, f"image-{instance}-"
        self._turns = Turns()
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._touched: set[str] = set()
        """Roots that some pull wanted since the last sweep began."""
        self._sweeping = threading.Lock()

    @contextmanager
    def keeping(
        self,
        path: nixfetch.StorePath,
        *,
        is_image: Callable[[], bool],
        cancelled: Callable[[], bool],
    ) -> Iterator[Kept]:
        """Have a path in the store, with its closure, and keep it when the block ends well.

        One thread at a time for each path.

        Args:
            path: it.
            is_image: whether there is an image of it; asked when the block ends with an error.
            cancelled: whether nobody waits for it any more.

        Raises:
            CancelledError: `cancelled` said so.
            NixfetchError: it cannot be had. There is no root then.
        """
        root = self._name(path)
        with self._turns.taking(root, cancelled), self._at_work(root):
            closure = self._closures.ensure(NixLayer((path,)), root=root, cancelled=cancelled)
            try:
                yield Kept(self._closures, frozenset(closure), f"{root}{_LAYERS}", cancelled)
            except BaseException:
                # The first error is the one to tell; without an answer the root stays for `sweep`.
                with suppress(nixfetch.NixfetchError):
                    if not is_image():
                        self._closures.unroot(root)
                raise
            finally:
                with suppress(nixfetch.NixfetchError):
                    self._closures.unroot(f"{root}{_LAYERS}")

    @contextmanager
    def _at_work(self, root: str) -> Iterator[None]:
        names = {root, f"{root}{_LAYERS}"}
        with self._lock:
            self._busy |= names
            self._touched |= names
        try:
            yield
        finally:
            with self._lock:
                self._busy -= names

    def sweep(self, images: Callable[[], Iterable[str]]) -> list[str]:
        """Remove the roots of images that are gone.

        Args:
            images: asks for the names of all images of the store; not asked where there are no
                roots.

        Returns:
            Names of the roots that were removed.

        Raises:
            NixfetchError: whatever `images` raises; or a root cannot be removed.
        """
        with self._sweeping:
            with self._lock:
                self._touched = set(self._busy)
            roots = {name for name in self._closures.roots() if name.startswith(self._prefix)}
            if not roots:
                return []
            gone = roots - {self._name(path) for path in _paths(images())}
            return [root for root in sorted(gone) if self._drop(root)]

    def _drop(self, root: str) -> bool:
        with self._lock:
            if root in self._touched:
                return False
            self._closures.unroot(root)
        _log.info("image is gone, its store paths are not kept any more: %s", root)
        return True

    def _name(self, path: nixfetch.StorePath) -> str:
        return f"{self._prefix}{path.hash_part}"


def _paths(names: Iterable[str]) -> Iterator[nixfetch.StorePath]:
    """The store paths that images are of."""
    for name in names:
        with suppress(ImageReferenceError):  # somebody else's; we root nothing for it
            reference = parse(name)
            if isinstance(reference, NixReference):
                yield reference.path
