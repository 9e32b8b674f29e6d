"""What of containerd an image needs, in memory, behind a real socket.

    with fake_containerd() as fake, Connection(fake.socket) as connection:
        ...
        fake.calls                                   # "Leases/Create", in order
        fake.faults["Diff/Apply"] = grpc.StatusCode.INTERNAL

Its collector comes when a lease ends, as the real one does. Knows nothing of namespaces.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.empty_pb2 import Empty

from snapshotter._pb import (
    content_pb2,
    cri_pb2,
    descriptor_pb2,
    diff_pb2,
    images_pb2,
    leases_pb2,
    snapshots_pb2,
)
from snapshotter._pb.types_pb2 import Mount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ALREADY, NOT_FOUND = grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.NOT_FOUND
CRI = "runtime.v1.ImageService"


class RefusedError(Exception):
    """Ends a call with a status."""

    def __init__(self, status: grpc.StatusCode, text: str = "as it was told") -> None:
        super().__init__(text)
        self.status, self.text = status, text


@dataclass(slots=True)
class Blob:
    data: bytes
    labels: dict[str, str]


@dataclass(slots=True)
class Snapshot:
    parent: str
    labels: dict[str, str]
    committed: bool = False


@dataclass(slots=True)
class Fake:
    """A containerd."""

    socket: Path
    calls: list[str] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    """Of each call."""
    faults: dict[str, grpc.StatusCode | Callable[[], None]] = field(default_factory=dict)
    """By ``Service/Method``: what it answers, or what happens before it answers."""
    leases: dict[str, dict[str, str]] = field(default_factory=dict)
    blobs: dict[str, Blob] = field(default_factory=dict)
    ingests: dict[str, bytes] = field(default_factory=dict)
    writers: set[str] = field(default_factory=set)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    images: dict[str, images_pb2.Image] = field(default_factory=dict)
    ready: Callable[[dict[str, str]], bool] = lambda _: False
    """Whether a layer with these labels needs no blob."""
    unpacked: Callable[[bytes], bytes] = lambda data: data
    """What a layer holds."""
    deaf: int = 0
    """So many more questions of CRI's are answered with: not known."""
    raw: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    """By method of CRI: the bytes that came, and those that go back."""
    held: dict[str, set[str]] = field(default_factory=dict)
    """By lease: blobs and snapshots."""

    def named(self) -> dict[str, str]:
        """By name of an image: the digest of its manifest."""
        return {name: image.target.digest for name, image in self.images.items()}

    def counted(self) -> Counter[str]:
        return Counter(self.calls)

    def is_empty(self) -> bool:
        return not (self.leases or self.blobs or self.ingests or self.snapshots or self.images)

    # The services.

    def create_lease(self, request: Any, _lease: str) -> Any:
        self.leases[request.id] = dict(request.labels)
        return leases_pb2.CreateResponse()

    def delete_lease(self, request: Any, _lease: str) -> Any:
        if self.leases.pop(request.id, None) is None:
            raise RefusedError(NOT_FOUND)
        self.held.pop(request.id, None)
        self.collect()
        return Empty()

    def list_leases(self, request: Any, _lease: str) -> Any:
        assert request.filters
        return leases_pb2.ListResponse(leases=[leases_pb2.Lease(id=id_) for id_ in self.leases])

    def collect(self) -> None:
        """Delete what nothing refers to."""
        kept = {name for held in self.held.values() for name in held}
        pending = [image.target.digest for image in self.images.values()] + list(kept)
        while pending:
            name = pending.pop()
            found: list[str] = []
            if (blob := self.blobs.get(name)) is not None:
                found += [to for label, to in blob.labels.items() if "/gc.ref." in label]
            if (snapshot := self.snapshots.get(name)) is not None and snapshot.parent:
                found.append(snapshot.parent)
            pending += [each for each in found if each not in kept]
            kept |= {name, *found}
        self.blobs = {name: blob for name, blob in self.blobs.items() if name in kept}
        self.snapshots = {name: each for name, each in self.snapshots.items() if name in kept}
        self.ingests = {
            ref: data
            for ref, data in self.ingests.items()
            if any(ref.startswith(lease) for lease in self.leases)
        }

    def write(self, requests: Iterator[Any], lease: str) -> Iterator[Any]:
        mine = ""
        try:
            for request in requests:
                if not mine and request.ref in self.writers:
                    raise RefusedError(grpc.StatusCode.UNAVAILABLE, "ref locked")
                mine = request.ref
                self.writers.add(mine)
                yield self._write_one(request, lease)
        finally:
            self.writers.discard(mine)

    def _write_one(self, request: Any, lease: str) -> Any:
        if request.expected in self.blobs:
            self._hold(lease, request.expected)
            raise RefusedError(ALREADY)
        before = self.ingests.get(request.ref, b"")
        if request.offset == 0:
            before = b""
        assert request.offset == len(before)
        self.ingests[request.ref] = before + request.data
        if request.action == content_pb2.COMMIT:
            data = self.ingests.pop(request.ref)
            name = f"sha256:{hashlib.sha256(data).hexdigest()}"
            if (name, len(data)) != (request.expected, request.total):
                raise RefusedError(grpc.StatusCode.FAILED_PRECONDITION, "unexpected digest")
            self.blobs[name] = Blob(data, dict(request.labels))
            self._hold(lease, name)
        return content_pb2.WriteContentResponse(action=request.action)

    def _hold(self, lease: str, name: str) -> None:
        if lease:
            assert lease in self.leases
            self.held.setdefault(lease, set()).add(name)

    def abort(self, request: Any, _lease: str) -> Any:
        if self.ingests.pop(request.ref, None) is None:
            raise RefusedError(NOT_FOUND)
        return Empty()

    def update_blob(self, request: Any, _lease: str) -> Any:
        blob = self.blobs[request.info.digest]
        for path in request.update_mask.paths:
            label = path.removeprefix("labels.")
            blob.labels[label] = request.info.labels[label]
        return content_pb2.UpdateResponse()

    def prepare(self, request: Any, lease: str) -> Any:
        target = request.labels.get("containerd.io/snapshot.ref", "")
        if request.parent and request.parent not in self.snapshots:
            raise RefusedError(NOT_FOUND)
        if target in self.snapshots or self.ready(dict(request.labels)):
            made = Snapshot(request.parent, dict(request.labels), committed=True)
            self.snapshots.setdefault(target, made)
            self._hold(lease, target)
            raise RefusedError(ALREADY)
        self.snapshots[request.key] = Snapshot(request.parent, dict(request.labels))
        self._hold(lease, request.key)
        mount = Mount(type="overlay", source="overlay", options=[f"upperdir={request.key}"])
        return snapshots_pb2.PrepareSnapshotResponse(mounts=[mount])

    def commit(self, request: Any, lease: str) -> Any:
        if request.name in self.snapshots:
            raise RefusedError(ALREADY)
        made = self.snapshots.pop(request.key)
        made.committed, made.labels = True, dict(request.labels)
        self.snapshots[request.name] = made
        self._hold(lease, request.name)
        return Empty()

    def remove_snapshot(self, request: Any, _lease: str) -> Any:
        if self.snapshots.pop(request.key, None) is None:
            raise RefusedError(NOT_FOUND)
        return Empty()

    def apply(self, request: Any, _lease: str) -> Any:
        data = self.unpacked(self.blobs[request.diff.digest].data)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        return diff_pb2.ApplyResponse(applied=descriptor_pb2.Descriptor(digest=digest))

    def get_image(self, request: Any, _lease: str) -> Any:
        if request.name not in self.images:
            raise RefusedError(NOT_FOUND)
        return images_pb2.GetImageResponse(image=self.images[request.name])

    def list_images(self, request: Any, _lease: str) -> Any:
        assert request.filters
        return images_pb2.ListImagesResponse(images=self.images.values())

    def create_image(self, request: Any, _lease: str) -> Any:
        if request.image.name in self.images:
            raise RefusedError(ALREADY)
        self.images[request.image.name] = request.image
        return images_pb2.CreateImageResponse(image=request.image)

    def update_image(self, request: Any, _lease: str) -> Any:
        image = self.images[request.image.name]
        for path in request.update_mask.paths:
            if path == "target":
                image.target.CopyFrom(request.image.target)
            else:
                label = path.removeprefix("labels.")
                image.labels[label] = request.image.labels[label]
        return images_pb2.UpdateImageResponse(image=image)

    def delete_image(self, request: Any, _lease: str) -> Any:
        if self.images.pop(request.name, None) is None:
            raise RefusedError(NOT_FOUND)
        self.collect()
        return Empty()

    def status(self, request: bytes, _lease: str) -> bytes:
        asked = cri_pb2.ImageStatusRequest.FromString(request).image.image
        answer = cri_pb2.ImageStatusResponse()
        if self.deaf:
            self.deaf -= 1
        elif asked in self.images:
            digest = self.images[asked].target.digest
            ids = {
                image.target.digest: name
                for name, image in self.images.items()
                if name.startswith("sha256:")
            }
            answer.image.id = ids.get(digest, "")
        return answer.SerializeToString()

    def remove_image(self, request: bytes, _lease: str) -> bytes:
        asked = cri_pb2.PullImageRequest.FromString(request).image.image
        digest = self.images[asked].target.digest
        self.images = {n: i for n, i in self.images.items() if i.target.digest != digest}
        self.collect()
        return b""


_UNARY: dict[str, tuple[str, Any]] = {
    "containerd.services.leases.v1.Leases/Create": ("create_lease", leases_pb2.CreateRequest),
    "containerd.services.leases.v1.Leases/Delete": ("delete_lease", leases_pb2.DeleteRequest),
    "containerd.services.leases.v1.Leases/List": ("list_leases", leases_pb2.ListRequest),
    "containerd.services.content.v1.Content/Update": ("update_blob", content_pb2.UpdateRequest),
    "containerd.services.content.v1.Content/Abort": ("abort", content_pb2.AbortRequest),
    "containerd.services.snapshots.v1.Snapshots/Prepare": (
        "prepare",
        snapshots_pb2.PrepareSnapshotRequest,
    ),
    "containerd.services.snapshots.v1.Snapshots/Commit": (
        "commit",
        snapshots_pb2.CommitSnapshotRequest,
    ),
    "containerd.services.snapshots.v1.Snapshots/Remove": (
        "remove_snapshot",
        snapshots_pb2.RemoveSnapshotRequest,
    ),
    "containerd.services.diff.v1.Diff/Apply": ("apply", diff_pb2.ApplyRequest),
    "containerd.services.images.v1.Images/Get": ("get_image", images_pb2.GetImageRequest),
    "containerd.services.images.v1.Images/List": ("list_images", images_pb2.ListImagesRequest),
    "containerd.services.images.v1.Images/Create": ("create_image", images_pb2.CreateImageRequest),
    "containerd.services.images.v1.Images/Update": ("update_image", images_pb2.UpdateImageRequest),
    "containerd.services.images.v1.Images/Delete": ("delete_image", images_pb2.DeleteImageRequest),
    f"{CRI}/ImageStatus": ("status", None),
    f"{CRI}/RemoveImage": ("remove_image", None),
}


class _Handler(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # none at run time
    def __init__(self, fake: Fake) -> None:
        self._fake, self._lock = fake, threading.Lock()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = handler_call_details.method.removeprefix("/")
        if method == "containerd.services.content.v1.Content/Write":
            return grpc.stream_stream_rpc_method_handler(
                self._write,
                request_deserializer=content_pb2.WriteContentRequest.FromString,
                response_serializer=_bytes,
            )
        if method == f"{CRI}/StreamImages":
            return grpc.unary_stream_rpc_method_handler(
                lambda request, context: self._answer(
                    method, lambda *_: iter((request, request)), request, context
                )
            )
        if method in _UNARY:
            name, message = _UNARY[method]
            return grpc.unary_unary_rpc_method_handler(
                lambda request, context: self._answer(
                    method, getattr(self._fake, name), request, context
                ),
                request_deserializer=message.FromString if message else None,
                response_serializer=_bytes,
            )
        if method.startswith(f"{CRI}/"):
            return grpc.unary_unary_rpc_method_handler(
                lambda request, context: self._answer(method, self._raw(method), request, context)
            )
        return None

    def _raw(self, method: str) -> Callable[[bytes, str], bytes]:
        def behave(request: bytes, _lease: str) -> bytes:
            name = method.rpartition("/")[2]
            answer = self._fake.raw.get(name, (b"", b""))[1]
            self._fake.raw[name] = (request, answer)
            return answer

        return behave

    def _answer(self, method: str, behave: Any, request: Any, context: grpc.ServicerContext) -> Any:
        lease = self._note(method, context)
        try:
            self._disturb(method)
            with self._lock:
                return behave(request, lease)
        except RefusedError as error:
            details = (("grpc-status-details-bin", b"more of it"),)
            context.set_trailing_metadata(details)
            return context.abort(error.status, error.text)

    def _write(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        lease = self._note("Content/Write", context)
        try:
            self._disturb("Content/Write")
            yield from self._fake.write(requests, lease)
        except RefusedError as error:
            context.abort(error.status, error.text)

    def _note(self, method: str, context: grpc.ServicerContext) -> str:
        found: Any = context.invocation_metadata()
        metadata = dict(found)
        self._fake.calls.append(_short(method))
        self._fake.metadata.append(metadata)
        return str(metadata.get("containerd-lease", ""))

    def _disturb(self, method: str) -> None:
        fault = self._fake.faults.get(_short(method))
        if isinstance(fault, grpc.StatusCode):
            raise RefusedError(fault)
        if fault is not None:
            fault()


def _short(method: str) -> str:
    return method.rpartition(".")[2]


def _bytes(message: Any) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


@contextmanager
def fake_containerd() -> Iterator[Fake]:
    """One that answers."""
    with tempfile.TemporaryDirectory(prefix="nf-", dir="/tmp") as folder:
        fake = Fake(Path(folder, "containerd.sock"))
        with serving(fake):
            yield fake


@contextmanager
def serving(fake: Fake) -> Iterator[None]:
    """Have it answer."""
    workers = ThreadPoolExecutor(64)
    options = (("grpc.max_receive_message_length", 16 * 1024 * 1024), ("grpc.so_reuseport", 0))
    server = grpc.server(workers, options=options)
    server.add_generic_rpc_handlers((_Handler(fake),))
    server.add_insecure_port(f"unix:{fake.socket}")
    server.start()
    try:
        yield
    finally:
        server.stop(0).wait()
        workers.shutdown()


def eventually(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
