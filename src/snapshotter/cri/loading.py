"""Images into containerd: its own services hold the blobs, its snapshotters the layers.

    for each layer    look into it, write its blob; prepare ──ready──> next
                                                        └──mounts──> apply, compare, commit
    configuration     refers to the last chain of layers
    manifest          refers to the configuration and the layers
    names             refer to the manifest; from here on containerd keeps it all

Layers of store paths go to our snapshotter by their labels, like those that containerd pulls; it
says that one is ready when its labels say all that is in it. Nothing is left when any of this
fails: all is made under a lease, which takes it along.

Source: containerd, core/unpack/unpacker.go; internal/cri/server/images/image_pull.go for names.
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import nixfetch
from snapshotter.cri.connection import Connection
from snapshotter.cri.lease import PIECE
from snapshotter.cri.namespace import Namespace, Record
from snapshotter.image import inspection
from snapshotter.image.places import MAX_UNPACKED
from snapshotter.imageref import NixReference, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from snapshotter.cri.lease import Lease, Writing
    from snapshotter.imageref import Reference
    from snapshotter.oci.image import Image
    from snapshotter.oci.model import Descriptor

SNAPSHOTTER = "nix"
"""What ours is called, where nobody gave it another name."""
KUBERNETES = "k8s.io"
"""The namespace of CRI."""
SOCKET = "/run/containerd/containerd.sock"

MANAGED: Final = {"io.cri-containerd.image": "managed"}
"""CRI lists an image of its namespace that has this, and adds it by itself after a while."""
_SNAPSHOT = "containerd.io/snapshot/"
_REF = "containerd.io/snapshot.ref"
_UNPACKED = "containerd.io/uncompressed"


class WrongLayerError(nixfetch.FormatError):
    """A layer unpacked to something else than its image says."""


def load(
    image: Image,
    into: Namespace,
    *,
    names: Sequence[str],
    snapshotter: str = SNAPSHOTTER,
    labels: Mapping[str, str] | None = None,
) -> None:
    """Have an image in containerd, unpacked, under each of `names`.

    Args:
        image: it; not believed.
        into: where.
        names: of the image, the most important one last. What had one of them loses it.
        snapshotter: who has its layers.
        labels: of the names.

    Raises:
        ImageError: it is not what it has to be: a digest, a size, the names in a layer, bombs.
        WrongLayerError: a layer holds something else.
        SnapshotterError: containerd, or a snapshotter, refuses it.
        CancelledError: nobody waits for it any more.
        NixfetchError: the image cannot be read.
    """
    with into.leasing() as lease, ExitStack() as undo:
        loading = _Loading(image, lease, snapshotter, undo)
        loading.documents()
        loading.layers()
        loading.end()
        for name in names:
            if into.put_image(Record(name, image.descriptor, labels or {})):
                undo.callback(_forget, into, name)
        undo.pop_all()


def _forget(into: Namespace, name: str) -> None:
    with suppress(nixfetch.NixfetchError):  # the first error is the one to tell
        into.delete_image(name)


@dataclass(slots=True)
class _Loading:
    """One image on its way. Blobs travel side by side: each waits for the disk by itself."""

    image: Image
    lease: Lease
    snapshotter: str
    undo: ExitStack
    left: int = MAX_UNPACKED
    """Bytes that the layers to come may unpack to."""
    under_way: list[Writing] = field(default_factory=list)

    def documents(self) -> None:
        """Send the configuration and the manifest, which refer to all the rest."""
        image, manifest = self.image, self.image.manifest
        chains = image.chain_ids()
        ref = f"containerd.io/gc.ref.snapshot.{self.snapshotter}"
        self._send(manifest.config, (image.config_bytes,), {ref: chains[-1]} if chains else {})
        labels = {"containerd.io/gc.ref.content.config": manifest.config.digest}
        for number, layer in enumerate(manifest.layers):
            labels[f"containerd.io/gc.ref.content.l.{number}"] = layer.digest
        self._send(image.descriptor, (image.manifest_bytes,), labels)

    def layers(self) -> None:
        """Have all layers unpacked, and their blobs sent."""
        parent = ""
        for number, chain in enumerate(self.image.chain_ids()):
            with nixfetch.facts(layer=self.image.manifest.layers[number].digest):
                writing = self._write(number)
                self._unpack(number, chain, parent, writing)
            parent = chain

    def end(self) -> None:
        """Have all blobs written that were sent."""
        while self.under_way:
            self.under_way.pop().end()

    def _send(
        self, blob: Descriptor, chunks: Iterable[bytes], labels: Mapping[str, str]
    ) -> Writing:
        writing = self.lease.write(blob, chunks, labels)
        self.undo.callback(writing.exchange.abandon)
        self.under_way.append(writing)
        return writing

    def _write(self, number: int) -> Writing | None:
        """Send the blob of a layer; None: it is there."""
        layer, chunks = self.image.manifest.layers[number], self.image.chunks
        if layer.digest in {below.digest for below in self.image.manifest.layers[:number]}:
            self.end()  # nobody writes one blob twice at the same time
            return None
        labels = {_UNPACKED: self.image.config.diff_ids[number]}
        if layer.size <= PIECE:  # costs less to send than to ask for
            self._look(number)
            return self._send(layer, (b"".join(chunks(layer)),), labels)
        if not self.lease.has(layer):
            self._look(number)
            self._send(layer, chunks(layer), labels)
            self._end_last()
        return None

    def _look(self, number: int) -> None:
        looked = inspection.look(self.image, number, limit=self.left)
        self.left -= looked.size

    def _end_last(self) -> None:
        """Wait for what was sent last."""
        self.under_way.pop().end()

    def _unpack(self, number: int, chain: str, parent: str, blob: Writing | None) -> None:
        layer = self.image.manifest.layers[number]
        own = {key: value for key, value in layer.annotations.items() if key.startswith(_SNAPSHOT)}
        labels = {**own, _REF: chain}
        key = f"extract-{secrets.randbelow(10**9)}-{secrets.token_hex(4)} {chain}"
        while (mounts := self.lease.prepare(self.snapshotter, key, parent, labels)) is not None:
            try:
                if blob is not None:
                    self._end_last()
                    blob = None
                self._check(number, self.lease.apply(layer, mounts))
                if self.lease.commit(self.snapshotter, key, chain, labels):
                    return
            except BaseException:
                with suppress(nixfetch.NixfetchError):  # the end of the lease does it too
                    self.lease.remove(self.snapshotter, key)
                raise
            # Another was faster. Theirs is kept for us too, once it is asked for.
            self.lease.remove(self.snapshotter, key)

    def _check(self, number: int, found: str) -> None:
        expected = self.image.config.diff_ids[number]
        if found != expected:
            raise WrongLayerError("layer has another content", expected=expected, actual=found)


def names_in_kubernetes(reference: Reference, image: Image) -> tuple[str, ...]:
    """What CRI calls an image: its ID, its digest in the repository, and the reference.

    Args:
        reference: that it is pulled or loaded by.
        image: it.
    """
    repository = reference.repository if isinstance(reference, NixReference) else reference.name
    own = tagged(reference)
    return (image.id, f"{repository}@{image.descriptor.digest}", *([own] if own else []))


def tagged(reference: Reference) -> str | None:
    """The name that a reference has without its digest; None: the digest is all it has."""
    if isinstance(reference, NixReference):
        return str(NixReference(reference.path))
    return f"{reference.name}:{reference.tag}" if reference.tag else None


class Loader:
    """A client of containerd that can take images.

    Args:
        connection: to containerd.
        snapshotter: the one that gets the layers.
    """

    def __init__(self, connection: Connection, *, snapshotter: str = SNAPSHOTTER) -> None:
        self._connection, self._snapshotter = connection, snapshotter

    def load(
        self,
        image: Image,
        *,
        namespace: str,
        reference: str,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> str:
        """Make an image known to containerd, with its layers unpacked.

        Args:
            image: it.
            namespace: of containerd, such as ``k8s.io``.
            reference: what it is called there.
            cancelled: whether nobody waits for it any more.

        Returns:
            The ID of the image: the digest of its configuration.

        Raises:
            ImageReferenceError: the reference is none.
            NixfetchError: as `load`.
        """
        parsed = parse(reference)
        if not isinstance(parsed, NixReference):
            parsed = parsed.with_tag()
        into = Namespace(self._connection, namespace, cancelled=cancelled)
        is_kubernetes = namespace == KUBERNETES
        load(
            image,
            into,
            names=names_in_kubernetes(parsed, image) if is_kubernetes else (str(parsed),),
            snapshotter=self._snapshotter,
            labels=MANAGED if is_kubernetes else {},
        )
        return image.id


@contextmanager
def connecting(
    address: Path | str | None = None, *, snapshotter: str = SNAPSHOTTER
) -> Iterator[Loader]:
    """Connect to the containerd at a socket, by default the usual one.

    Raises, when something is loaded:
        UnavailableError: it does not answer.
    """
    with Connection(address or SOCKET) as connection:
        yield Loader(connection, snapshotter=snapshotter)
