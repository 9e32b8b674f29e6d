"""`PullImage` of an image of the store: fetched, read, loaded, listed; or an error and nothing.

    nix:0/nix/store/…    root and fetch ──> known and listed? ──yes──────────────────> its ID
                                                └─no─> open ──> fetch what its layers
                                                       need ──> load ──> listed ──────> its ID

An image that containerd knows, and that was made of this path by this version, is not read again:
a store path never changes. Hence a tag `latest`, which kubelet pulls for each pod, costs little.
"""

from __future__ import annotations

import logging
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import nixfetch
from snapshotter import labels
from snapshotter.cri import loading
from snapshotter.cri.connection import FIRST_PAUSE, LAST_PAUSE
from snapshotter.cri.imageroots import PATTERN
from snapshotter.cri.namespace import OWNER, Namespace
from snapshotter.cri.runtime import await_listing, listed
from snapshotter.image import storeimage
from snapshotter.image.trees import Trees
from snapshotter.imageref import NixReference

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

    from snapshotter.cri.connection import Connection
    from snapshotter.cri.imageroots import ImageRoots, Kept
    from snapshotter.labels import NixLayer
    from snapshotter.oci.image import Image
    from snapshotter.oci.model import Platform

SWEEP_EVERY = 600.0  # seconds; images are also removed by others than us
MADE_BY: Final = "nixfetch/image"
"""A label of images in containerd: which version of this package made it, and of what digest."""
_MAKING = "1"  # to be raised when the same path gives another image

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where images go."""

    connection: Connection
    namespace: str = loading.KUBERNETES
    snapshotter: str = loading.SNAPSHOTTER


class Pulls:
    """Pulls images of the store into containerd. Safe to share among threads."""

    def __init__(
        self,
        place: Place,
        roots: ImageRoots,
        store: nixfetch.LocalStore,
        *,
        machine: Platform,
        instance: str,
        scratch: Path | None = None,
    ) -> None:
        """Pull into `place`.

        Args:
            place: where images go.
            roots: fetches store paths and keeps them.
            store: has them; open as long as this is used.
            machine: that images have to run on.
            instance: of the daemon: what nobody else is called, in this containerd.
            scratch: for archives that are compressed, in files without names.
        """
        self._place, self._roots, self._store = place, roots, store
        self._machine, self._scratch = machine, scratch
        self._owner = f"{OWNER}-{instance}"
        self._process = f"{self._owner}-{secrets.token_hex(4)}"
        self._tidied = False

    def pull(self, reference: NixReference, *, cancelled: Callable[[], bool]) -> str:
        """Have the image of a store path in containerd, and listed by CRI.

        Args:
            reference: names the path.
            cancelled: whether nobody waits for it any more.

        Returns:
            The ID of the image: the digest of its configuration.

        Raises:
            FetchFailedError: the path, or what it refers to, is not to be had.
            ImageError: it is an archive, and not one that may be run here.
            SnapshotterError: containerd, or a snapshotter, refuses it, or does not answer.
            CancelledError: `cancelled` said so.
            StoreError: this machine cannot go on.
        """
        into = Namespace(
            self._place.connection,
            self._place.namespace,
            owner=self._process,
            cancelled=cancelled,
        )
        name = str(NixReference(reference.path))
        with self._roots.keeping(
            reference.path, is_image=lambda: into.image(name) is not None, cancelled=cancelled
        ) as kept:
            known = self._known(reference, into, name)
            return known or self._load(reference, into, name, kept)

    def _known(self, reference: NixReference, into: Namespace, name: str) -> str | None:
        """The ID of an image that there is nothing to do for."""
        found = into.image(name)
        if found is None or found.labels.get(MADE_BY) != _made(found.digest):
            return None
        if reference.digest not in {None, found.digest}:
            return None  # whoever opens it says so
        return listed(self._place.connection, name)

    def _load(
        self,
        reference: NixReference,
        into: Namespace,
        name: str,
        kept: Kept,
    ) -> str:
        began = time.monotonic()
        with storeimage.opening(
            reference, Trees(self._store), machine=self._machine, scratch=self._scratch
        ) as image:
            kept.also(_nix_layers(image))
            loading.load(
                image,
                into,
                names=loading.names_in_kubernetes(NixReference(reference.path), image),
                snapshotter=self._place.snapshotter,
                labels={**loading.MANAGED, MADE_BY: _made(image.descriptor.digest)},
            )
        await_listing(self._place.connection, name, image.id, cancelled=kept.cancelled)
        _log.info("pulled %s in %.3f s: %s", name, time.monotonic() - began, image.id)
        return image.id

    # What is not needed any more.

    def sweep(self) -> None:
        """Keep nothing for images that containerd does not have, or that we never finished.

        Raises:
            SnapshotterError: it does not say which it has.
            StoreError: a root cannot be removed.
        """
        into = Namespace(self._place.connection, self._place.namespace)
        if not self._tidied:
            into.end_leases(self._owner, but=self._process)
            self._tidied = True
        self._roots.sweep(lambda: [image.name for image in into.images(PATTERN)])

    def keep_swept(self, ended: threading.Event) -> None:
        """Sweep as soon as containerd answers, and now and then; until `ended`."""
        pause = FIRST_PAUSE
        while True:
            try:
                self.sweep()
            except nixfetch.NixfetchError as error:
                _log.debug("images cannot be looked through: %s", error)
                pause = min(pause * 2, LAST_PAUSE)
            else:
                pause = SWEEP_EVERY
            if ended.wait(pause):
                return

    def try_sweep(self) -> None:
        """Sweep; what fails is for another time."""
        with suppress(nixfetch.NixfetchError):
            self.sweep()


def _nix_layers(image: Image) -> list[NixLayer]:
    """The layers of store paths; labels that no builder writes are refused here already."""
    found = []
    for layer in image.manifest.layers:
        with nixfetch.facts(layer=layer.digest):
            found.append(labels.parse(layer.annotations))
    return [layer for layer in found if layer is not None]


def _made(digest: str) -> str:
    return f"{_MAKING}@{digest}"
