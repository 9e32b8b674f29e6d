"""What one namespace of a containerd has: leases, and images by their names. Decides nothing.

with Namespace(connection, "k8s.io").leasing() as lease:
    lease.write(layer, chunks).end()            # kept from containerd's collector until the end
    mounts = lease.prepare(…)

A lease that ends with an error takes what it made with it.

Source: containerd, api/services/{leases,images}/v1.
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from google.protobuf.empty_pb2 import Empty

import nixfetch
from snapshotter._pb import descriptor_pb2, images_pb2, leases_pb2
from snapshotter.cri.lease import Lease, label_fields
from snapshotter.errors import AlreadyExistsError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from snapshotter.cri.connection import Connection, Metadata
    from snapshotter.oci.model import Descriptor

LIFE = timedelta(hours=24)  # of a lease that nobody ends; containerd's own clients take this too
OWNER = "nixfetch"

_LEASES: Final = "/containerd.services.leases.v1.Leases"
_IMAGES: Final = "/containerd.services.images.v1.Images"


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
        owner: what the names of our leases begin with.
        cancelled: whether nobody waits for any of it any more.
    """

    def __init__(
        self,
        connection: Connection,
        name: str,
        *,
        owner: str = OWNER,
        cancelled: Callable[[], bool] = _never,
    ) -> None:
        self._connection, self.name, self._cancelled = connection, name, cancelled
        self._owner = owner
        self._metadata: Metadata = (("containerd-namespace", name),)

    @contextmanager
    def leasing(self) -> Iterator[Lease]:
        """Have a lease; what was made under it and is not in use goes with an error.

        Raises:
            SnapshotterError: containerd does not give one.
        """
        id_ = f"{self._owner}-{secrets.token_hex(8)}"
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

    def end_leases(self, owner: str, *, but: str) -> None:
        """End leases that nobody has any more.

        Args:
            owner: what their names begin with.
            but: what the names of those begin with that somebody has.

        Raises:
            SnapshotterError: containerd does not.
        """
        answer = self._connection.call(
            f"{_LEASES}/List",
            leases_pb2.ListRequest(filters=[f'id~="^{owner}-"']),
            leases_pb2.ListResponse,
            metadata=self._metadata,
        )
        for lease in answer.leases:
            if lease.id.startswith(f"{owner}-") and not lease.id.startswith(f"{but}-"):
                with suppress(NotFoundError):
                    self._end(lease.id, sync=False)

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
            request.update_mask.paths.extend(["target", *label_fields(record.labels)])
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


def _found(image: images_pb2.Image) -> Found:
    return Found(image.name, image.target.digest, dict(image.labels))
