"""What is made in containerd before an image of it has a name: blobs and snapshots, under a lease.

Knows the wire; decides nothing.

Source: containerd, api/services/{content,snapshots,diff}/v1.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from google.protobuf.empty_pb2 import Empty

import nixfetch
from snapshotter._pb import content_pb2, descriptor_pb2, diff_pb2, snapshots_pb2
from snapshotter.cri.connection import PATIENCE
from snapshotter.errors import AlreadyExistsError, InternalError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from google.protobuf.message import Message

    from snapshotter._pb.types_pb2 import Mount
    from snapshotter.cri.connection import Answer, Connection, Exchange, Metadata
    from snapshotter.oci.model import Descriptor

PIECE = 1024 * 1024  # bytes of a blob in one message
SLOWEST = 1024 * 1024  # bytes in a second that a disk writes, at the least

_CONTENT: Final = "/containerd.services.content.v1.Content"
_SNAPSHOTS: Final = "/containerd.services.snapshots.v1.Snapshots"
_DIFF: Final = "/containerd.services.diff.v1.Diff"


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
            self._exchange(lambda: iter((request,)), PATIENCE).end()
        except AlreadyExistsError:
            return True
        return False

    def write(
        self, blob: Descriptor, chunks: Iterable[bytes], labels: Mapping[str, str] | None = None
    ) -> Writing:
        """Begin to write a blob, with labels added to those that it has.

        Args:
            blob: it.
            chunks: its bytes; iterated in another thread.
            labels: as ``containerd.io/gc.ref.content.0``.
        """
        patience = PATIENCE + blob.size / SLOWEST
        exchange = self._exchange(lambda: self._pieces(blob, chunks, labels or {}), patience)
        return Writing(self, blob, exchange, labels or {})

    def label(self, blob: Descriptor, labels: Mapping[str, str]) -> None:
        """Add labels to a blob that is there.

        Raises:
            SnapshotterError: containerd does not.
        """
        if not labels:
            return
        request = content_pb2.UpdateRequest(
            info=content_pb2.Info(digest=blob.digest, labels=labels)
        )
        request.update_mask.paths.extend(label_fields(labels))
        self._call(f"{_CONTENT}/Update", request, content_pb2.UpdateResponse)

    def abort(self, blob: Descriptor) -> None:
        """Forget what was written of a blob; the end of the lease does it too."""
        with suppress(nixfetch.NixfetchError):
            self._call(f"{_CONTENT}/Abort", content_pb2.AbortRequest(ref=self._ref(blob)), Empty)

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

    def _exchange(
        self,
        requests: Callable[[], Iterator[content_pb2.WriteContentRequest]],
        timeout: float,
    ) -> Exchange[content_pb2.WriteContentResponse]:
        return self._connection.exchange(
            f"{_CONTENT}/Write",
            requests,
            content_pb2.WriteContentResponse,
            metadata=self._metadata,
            timeout=timeout,
            cancelled=self._cancelled,
        )

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

    def commit(self, snapshotter: str, key: str, name: str, labels: Mapping[str, str]) -> bool:
        """Make a layer of a snapshot; False: somebody else has made it already.

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
            return False
        return True

    def remove(self, snapshotter: str, key: str) -> None:
        """Remove a snapshot; without one nothing happens.

        Raises:
            SnapshotterError: it cannot be removed.
        """
        request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=snapshotter, key=key)
        with suppress(NotFoundError):
            self._call(f"{_SNAPSHOTS}/Remove", request, Empty)

    def _call(self, method: str, request: Message, answer: type[Answer]) -> Answer:
        return self._connection.call(method, request, answer, metadata=self._metadata)


@dataclass(frozen=True, slots=True)
class Writing:
    """A blob that is being written."""

    lease: Lease
    blob: Descriptor
    exchange: Exchange[content_pb2.WriteContentResponse]
    labels: Mapping[str, str]

    def end(self) -> None:
        """Have it written, or there already.

        Raises:
            SnapshotterError: containerd refuses it.
            NixfetchError: as the iteration of its bytes.
        """
        try:
            self.exchange.end()
        except AlreadyExistsError:
            self.lease.label(self.blob, self.labels)
        except BaseException:
            self.lease.abort(self.blob)
            raise


def label_fields(labels: Mapping[str, str]) -> list[str]:
    """The fields of a message that a change of `labels` is about."""
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
