"""What containerd has: leases, blobs, snapshots and images of one namespace. Decides nothing.

with Namespace(connection, "k8s.io").leasing() as lease:
    lease.write(layer, chunks)                  # kept from containerd's collector until the end
    mounts = lease.prepare(…)

A lease that ends with an error takes what it made with it.

Source: containerd, api/services/{leases,content,snapshots,diff,images}/v1.
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from google.protobuf.empty_pb2 import Empty

import nixfetch
from snapshotter._pb import (
    content_pb2,
    descriptor_pb2,
    diff_pb2,
    images_pb2,
    leases_pb2,
    snapshots_pb2,
)
from snapshotter.errors import AlreadyExistsError, InternalError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from google.protobuf.message import Message

    from snapshotter._pb.types_pb2 import Mount
    from snapshotter.cri.connection import Answer, Connection, Metadata
    from snapshotter.oci.model import Descriptor

PIECE = 1024 * 1024  # bytes of a blob in one message
LIFE = timedelta(hours=24)  # of a lease that nobody ends; containerd's own clients take this too

_SERVICES: Final = "/containerd.services"
_LEASES = f"{_SERVICES}.leases.v1.Leases"
_CONTENT = f"{_SERVICES}.content.v1.Content"
_SNAPSHOTS = f"{_SERVICES}.snapshots.v1.Snapshots"
_DIFF = f"{_SERVICES}.diff.v1.Diff"
_IMAGES = f"{_SERVICES}.images.v1.Images"


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Record:
    """An image by its name, as containerd keeps it."""

    name: str
    target: Descriptor
    """Its manifest; of annotations nothing is kept."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """An image that containerd has."""

    name: str
    digest: str
    """Of its manifest, or of its index."""
    labels: Mapping[str, str]


class Namespace:
    """One namespace of a containerd. Safe to share among threads.

    Args:
        connection: to containerd.
        name: such as ``k8s.io``.
        cancelled: whether nobody waits for any of it any more.
    """

    def __init__(
        self, connection: Connection, name: str, *, cancelled: Callable[[], bool] = _never
    ) -> None:
        self._connection, self.name, self._cancelled = connection, name, cancelled
        self._metadata: Metadata = (("containerd-namespace", name),)

    @contextmanager
    def leasing(self) -> Iterator[Lease]:
        """Have a lease; what was made under it and is not in use goes with an error.

        Raises:
            SnapshotterError: containerd does not give one.
        """
        id_ = f"nixfetch-{secrets.token_hex(8)}"
        expiry = datetime.now(UTC) + LIFE
        labels = {"containerd.io/gc.expire": expiry.strftime("%Y-%m-%dT%H:%M:%SZ")}
        self._connection.call(
            f"{_LEASES}/Create",
            leases_pb2.CreateRequest(id=id_, labels=labels),
            leases_pb2.CreateResponse,
            metadata=self._metadata,
        )
        try:
            yield Lease(self._connection, id_, self._metadata, self._cancelled)
        except BaseException:
            with suppress(nixfetch.NixfetchError):  # the first error is the one to tell
                self._end(id_, sync=True)
            raise
        with suppress(nixfetch.NixfetchError):  # it ends by itself, tomorrow
            self._end(id_, sync=False)

    def _end(self, id_: str, *, sync: bool) -> None:
        self._connection.call(
            f"{_LEASES}/Delete",
            leases_pb2.DeleteRequest(id=id_, sync=sync),
            Empty,
            metadata=self._metadata,
        )

    # Images.

    def image(self, name: str) -> Found | None:
        """The image of that name; None: there is none.

        Raises:
            SnapshotterError: containerd does not say.
        """
        try:
            answer = self._connection.call(
                f"{_IMAGES}/Get",
                images_pb2.GetImageRequest(name=name),
                images_pb2.GetImageResponse,
                metadata=self._metadata,
            )
        except NotFoundError:
            return None
        return _found(answer.image)

    def images(self, pattern: str) -> list[Found]:
        """All images whose names match a regular expression.

        Raises:
            SnapshotterError: containerd does not say.
        """
        request = images_pb2.ListImagesRequest(filters=[f'name~="{pattern}"'])
        answer = self._connection.call(
            f"{_IMAGES}/List", request, images_pb2.ListImagesResponse, metadata=self._metadata
        )
        return list(map(_found, answer.images))

    def put_image(self, record: Record) -> bool:
        """Have an image of that name, whatever there was; whether there was none.

        Raises:
            SnapshotterError: containerd refuses it.
        """
        target = descriptor_pb2.Descriptor(
            media_type=record.target.media_type,
            digest=record.target.digest,
            size=record.target.size,
        )
        image = images_pb2.Image(name=record.name, labels=record.labels, target=target)
        try:
            self._connection.call(
                f"{_IMAGES}/Create",
                images_pb2.CreateImageRequest(image=image),
                images_pb2.CreateImageResponse,
                metadata=self._metadata,
            )
        except AlreadyExistsError:
            request = images_pb2.UpdateImageRequest(image=image)
            request.update_mask.paths.extend(["target", *_label_fields(record.labels)])
            self._connection.call(
                f"{_IMAGES}/Update",
                request,
                images_pb2.UpdateImageResponse,
                metadata=self._metadata,
            )
            return False
        return True

    def delete_image(self, name: str) -> None:
        """Forget the name of an image; without one nothing happens.

        Raises:
            SnapshotterError: containerd does not.
        """
        with suppress(NotFoundError):
            self._connection.call(
                f"{_IMAGES}/Delete",
                images_pb2.DeleteImageRequest(name=name),
                Empty,
                metadata=self._metadata,
            )


class Lease:
    """What is made here is kept from containerd's collector as long as the lease lives.

    What is there already is kept too, from the moment it was asked for.
    """

    def __init__(
        self,
        connection: Connection,
        id_: str,
        metadata: Metadata,
        cancelled: Callable[[], bool],
    ) -> None:
        self._connection, self.id, self._cancelled = connection, id_, cancelled
        self._metadata: Metadata = (*metadata, ("containerd-lease", id_))

    # Blobs.

    def has(self, blob: Descriptor) -> bool:
        """Whether a blob is there.

        Raises:
            SnapshotterError: containerd does not say.
        """
        request = self._writing(blob, action=content_pb2.STAT)
        try:
            self._exchange(lambda: iter((request,)))
        except AlreadyExistsError:
            return True
        return False

    def write(
        self, blob: Descriptor, chunks: Iterable[bytes], labels: Mapping[str, str] | None = None
    ) -> None:
        """Have a blob, with labels added to those that it has.

        Args:
            blob: it.
            chunks: its bytes; not read where it is there already and has more than a few.
            labels: as ``containerd.io/gc.ref.content.0``.

        Raises:
            SnapshotterError: containerd refuses it.
            NixfetchError: as the iteration of `chunks`.
        """
        if blob.size > PIECE and self.has(blob):
            self._label(blob, labels)
            return
        try:
            self._exchange(lambda: self._pieces(blob, chunks, labels or {}))
        except AlreadyExistsError:
            self._label(blob, labels)
        except BaseException:
            with suppress(nixfetch.NixfetchError):  # the end of the lease does it too
                self._call(
                    f"{_CONTENT}/Abort", content_pb2.AbortRequest(ref=self._ref(blob)), Empty
                )
            raise

    def _pieces(
        self, blob: Descriptor, chunks: Iterable[bytes], labels: Mapping[str, str]
    ) -> Iterator[content_pb2.WriteContentRequest]:
        """The messages that write a blob; the last one, which also commits it, is known as such."""
        offset = 0
        for data in _pieces_of(chunks):
            is_last = offset + len(data) == blob.size
            yield self._writing(
                blob,
                action=content_pb2.COMMIT if is_last else content_pb2.WRITE,
                offset=offset,
                data=data,
                labels=labels if is_last else {},
            )
            offset += len(data)

    def _writing(
        self,
        blob: Descriptor,
        *,
        action: content_pb2.WriteAction,
        offset: int = 0,
        data: bytes = b"",
        labels: Mapping[str, str] | None = None,
    ) -> content_pb2.WriteContentRequest:
        return content_pb2.WriteContentRequest(
            action=action,
            ref=self._ref(blob),
            total=blob.size,
            expected=blob.digest,
            offset=offset,
            data=data,
            labels=labels or {},
        )

    def _exchange(self, requests: Callable[[], Iterator[content_pb2.WriteContentRequest]]) -> None:
        self._connection.exchange(
            f"{_CONTENT}/Write",
            requests,
            content_pb2.WriteContentResponse,
            metadata=self._metadata,
            cancelled=self._cancelled,
        )

    def _label(self, blob: Descriptor, labels: Mapping[str, str] | None) -> None:
        if not labels:
            return
        request = content_pb2.UpdateRequest(
            info=content_pb2.Info(digest=blob.digest, labels=labels)
        )
        request.update_mask.paths.extend(_label_fields(labels))
        self._call(f"{_CONTENT}/Update", request, content_pb2.UpdateResponse)

    def _ref(self, blob: Descriptor) -> str:
        """The name of what is being written: ours alone."""
        return f"{self.id}-{blob.digest}"

    # Snapshots.

    def prepare(
        self, snapshotter: str, key: str, parent: str, labels: Mapping[str, str]
    ) -> Sequence[Mount] | None:
        """Have a snapshot to unpack a layer into.

        Args:
            snapshotter: its name.
            key: of the snapshot; a new one.
            parent: the chain below, or empty.
            labels: of the layer; ``containerd.io/snapshot.ref`` is its chain.

        Returns:
            Its mounts; None: the layer of that chain is ready.

        Raises:
            SnapshotterError: it cannot be made.
            CancelledError: nobody waits for it any more.
        """
        request = snapshots_pb2.PrepareSnapshotRequest(
            snapshotter=snapshotter, key=key, parent=parent, labels=labels
        )
        try:
            answer = self._connection.call(
                f"{_SNAPSHOTS}/Prepare",
                request,
                snapshots_pb2.PrepareSnapshotResponse,
                metadata=self._metadata,
                timeout=None,  # a snapshotter may have to fetch what the labels name
                cancelled=self._cancelled,
            )
        except AlreadyExistsError:
            return None
        return answer.mounts

    def apply(self, layer: Descriptor, mounts: Sequence[Mount]) -> str:
        """Unpack a layer.

        Returns:
            The digest of what it holds, unpacked.

        Raises:
            SnapshotterError: it cannot be unpacked.
            CancelledError: nobody waits for it any more.
        """
        diff = descriptor_pb2.Descriptor(
            media_type=layer.media_type, digest=layer.digest, size=layer.size
        )
        answer = self._connection.call(
            f"{_DIFF}/Apply",
            diff_pb2.ApplyRequest(diff=diff, mounts=mounts),
            diff_pb2.ApplyResponse,
            metadata=self._metadata,
            timeout=None,
            cancelled=self._cancelled,
        )
        if not answer.HasField("applied"):
            raise InternalError("containerd does not say what it unpacked", layer=layer.digest)
        return answer.applied.digest

    def commit(self, snapshotter: str, key: str, name: str, labels: Mapping[str, str]) -> None:
        """Make a layer of a snapshot; where somebody else made the same, that one is taken.

        Raises:
            SnapshotterError: it cannot be.
        """
        request = snapshots_pb2.CommitSnapshotRequest(
            snapshotter=snapshotter, name=name, key=key, labels=labels
        )
        try:
            self._connection.call(
                f"{_SNAPSHOTS}/Commit",
                request,
                Empty,
                metadata=self._metadata,
                timeout=None,
                cancelled=self._cancelled,
            )
        except AlreadyExistsError:
            self.remove(snapshotter, key)

    def remove(self, snapshotter: str, key: str) -> None:
        """Remove a snapshot; without one nothing happens.

        Raises:
            SnapshotterError: it cannot be removed.
        """
        request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=snapshotter, key=key)
        with suppress(NotFoundError):
            self._call(f"{_SNAPSHOTS}/Remove", request, Empty)

    def has_snapshot(self, snapshotter: str, name: str) -> bool:
        """Whether there is a snapshot of that name.

        Raises:
            SnapshotterError: containerd does not say.
        """
        request = snapshots_pb2.StatSnapshotRequest(snapshotter=snapshotter, key=name)
        try:
            self._call(f"{_SNAPSHOTS}/Stat", request, snapshots_pb2.StatSnapshotResponse)
        except NotFoundError:
            return False
        return True

    def _call(self, method: str, request: Message, answer: type[Answer]) -> Answer:
        return self._connection.call(method, request, answer, metadata=self._metadata)


def _found(image: images_pb2.Image) -> Found:
    return Found(image.name, image.target.digest, dict(image.labels))


def _label_fields(labels: Mapping[str, str]) -> list[str]:
    return [f"labels.{label}" for label in labels]


def _pieces_of(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in messages that are neither large nor many; none of them is empty."""
    gathered: list[bytes] = []
    size = 0
    for chunk in chunks:
        for start in range(0, len(chunk), PIECE):
            piece = chunk[start : start + PIECE]
            if size + len(piece) > PIECE:
                yield b"".join(gathered)
                gathered, size = [], 0
            gathered.append(piece)
            size += len(piece)
    if gathered:
        yield b"".join(gathered)
