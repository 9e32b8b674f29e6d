"""containerd.services.snapshots.v1 on the wire: messages to plain calls, and back.

Decides nothing. The one place where an error that nobody foresaw ends: as INTERNAL, and with its
traceback in the log.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

import nixfetch
from snapshotter._pb import snapshots_pb2 as pb
from snapshotter._pb.types_pb2 import Mount as MountMessage
from snapshotter.filters import Filter
from snapshotter.grpc_errors import status_of, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from google.protobuf.message import Message

    from snapshotter.core import Snapshotter
    from snapshotter.lifecycle import Info
    from snapshotter.mounts import Mount

SERVICE = "containerd.services.snapshots.v1.Snapshots"
BATCH = 100  # snapshots a message of List; each has at most some KiB of labels

_NANOSECONDS = 1_000_000_000
_QUIET = frozenset({grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS})
"""What containerd asks for in the ordinary course of things."""

_log = logging.getLogger(__name__)


class Observer(Protocol):
    """Is told of each call."""

    def called(self, method: str, status: str, seconds: float) -> None: ...


def handler(snapshotter: Snapshotter, observer: Observer) -> grpc.GenericRpcHandler[Any, Any]:
    """The service, for a server.

    Args:
        snapshotter: does it.
        observer: is told of each call.
    """
    service = _Service(snapshotter)
    unary: dict[str, tuple[Callable[..., Message], type[Message]]] = {
        "Prepare": (service.prepare, pb.PrepareSnapshotRequest),
        "View": (service.view, pb.ViewSnapshotRequest),
        "Mounts": (service.mounts, pb.MountsRequest),
        "Commit": (service.commit, pb.CommitSnapshotRequest),
        "Remove": (service.remove, pb.RemoveSnapshotRequest),
        "Stat": (service.stat, pb.StatSnapshotRequest),
        "Update": (service.update, pb.UpdateSnapshotRequest),
        "Usage": (service.usage, pb.UsageRequest),
        "Cleanup": (service.cleanup, pb.CleanupRequest),
    }
    methods = {
        name: grpc.unary_unary_rpc_method_handler(
            _answering(name, behaviour, observer),
            request_deserializer=request.FromString,
            response_serializer=_bytes,
        )
        for name, (behaviour, request) in unary.items()
    }
    methods["List"] = grpc.unary_stream_rpc_method_handler(
        _answering("List", service.list, observer),
        request_deserializer=pb.ListSnapshotsRequest.FromString,
        response_serializer=_bytes,
    )
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def _bytes(message: Message) -> bytes:
    return message.SerializeToString()


def _answering(
    method: str, behaviour: Callable[[Any, grpc.ServicerContext], Any], observer: Observer
) -> Callable[[Any, grpc.ServicerContext], Any]:
    """`behaviour`, with errors as statuses, measured and logged."""

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        began = time.perf_counter()
        try:
            response = behaviour(request, context)
        except nixfetch.NixfetchError as error:
            status, text = status_of(error), text_of(error)
            level = logging.DEBUG if status in _QUIET else logging.WARNING
            _log.log(level, "%s %s: %s: %s", method, _subject(request), status.name, text)
        except Exception as error:  # noqa: BLE001 - the caller has to hear something
            _log.exception("%s %s: a bug", method, _subject(request))
            status, text = grpc.StatusCode.INTERNAL, f"unforeseen: {type(error).__name__}"
        else:
            seconds = time.perf_counter() - began
            observer.called(method, "OK", seconds)
            _log.debug("%s %s: OK in %.1f ms", method, _subject(request), seconds * 1000)
            return response
        observer.called(method, status.name, time.perf_counter() - began)
        return context.abort(status, text)

    return answer


def _subject(request: Any) -> str:
    """What a request is about, for a line of the log."""
    return ascii(
        str(getattr(request, "key", "") or getattr(getattr(request, "info", ""), "name", ""))
    )


class _Service:
    """Each method takes a message and gives one."""

    def __init__(self, snapshotter: Snapshotter) -> None:
        self._snapshotter = snapshotter

    def prepare(
        self, request: pb.PrepareSnapshotRequest, context: grpc.ServicerContext
    ) -> pb.PrepareSnapshotResponse:
        mounts = self._snapshotter.prepare(
            request.key, request.parent, dict(request.labels), cancelled=_cancelled(context)
        )
        return pb.PrepareSnapshotResponse(mounts=_mounts(mounts))

    def view(
        self, request: pb.ViewSnapshotRequest, context: grpc.ServicerContext
    ) -> pb.ViewSnapshotResponse:
        mounts = self._snapshotter.view(
            request.key, request.parent, dict(request.labels), cancelled=_cancelled(context)
        )
        return pb.ViewSnapshotResponse(mounts=_mounts(mounts))

    def mounts(self, request: pb.MountsRequest, _: grpc.ServicerContext) -> pb.MountsResponse:
        return pb.MountsResponse(mounts=_mounts(self._snapshotter.mounts(request.key)))

    def commit(self, request: pb.CommitSnapshotRequest, context: grpc.ServicerContext) -> Empty:
        self._snapshotter.commit(
            request.name,
            request.key,
            dict(request.labels),
            parent=request.parent,
            cancelled=_cancelled(context),
        )
        return Empty()

    def remove(self, request: pb.RemoveSnapshotRequest, _: grpc.ServicerContext) -> Empty:
        self._snapshotter.remove(request.key)
        return Empty()

    def stat(
        self, request: pb.StatSnapshotRequest, _: grpc.ServicerContext
    ) -> pb.StatSnapshotResponse:
        return pb.StatSnapshotResponse(info=_info(self._snapshotter.stat(request.key)))

    def update(
        self, request: pb.UpdateSnapshotRequest, _: grpc.ServicerContext
    ) -> pb.UpdateSnapshotResponse:
        info = self._snapshotter.update(
            request.info.name, dict(request.info.labels), tuple(request.update_mask.paths)
        )
        return pb.UpdateSnapshotResponse(info=_info(info))

    def list(
        self, request: pb.ListSnapshotsRequest, _: grpc.ServicerContext
    ) -> Iterator[pb.ListSnapshotsResponse]:
        # Whole before its first message is sent, so that what fails fails as an error of the call.
        found = self._snapshotter.walk(Filter.parse(request.filters))
        return (
            pb.ListSnapshotsResponse(info=map(_info, found[start : start + BATCH]))
            for start in range(0, len(found), BATCH)
        )

    def usage(self, request: pb.UsageRequest, _: grpc.ServicerContext) -> pb.UsageResponse:
        usage = self._snapshotter.usage(request.key)
        return pb.UsageResponse(size=usage.size, inodes=usage.inodes)

    def cleanup(self, _: pb.CleanupRequest, context: grpc.ServicerContext) -> Empty:
        self._snapshotter.cleanup(stopped=_cancelled(context))
        return Empty()


def _cancelled(context: grpc.ServicerContext) -> Callable[[], bool]:
    return lambda: not context.is_active()


def _mounts(mounts: Iterable[Mount]) -> list[MountMessage]:
    return [
        MountMessage(
            type=mount.type, source=mount.source, target=mount.target, options=mount.options
        )
        for mount in mounts
    ]


def _info(info: Info) -> pb.Info:
    return pb.Info(
        name=info.name,
        parent=info.parent,
        kind=pb.Kind.Name(info.kind),
        created_at=_timestamp(info.created_ns),
        updated_at=_timestamp(info.updated_ns),
        labels=info.labels,
    )


def _timestamp(nanoseconds: int) -> Timestamp:
    seconds, nanos = divmod(nanoseconds, _NANOSECONDS)
    return Timestamp(seconds=seconds, nanos=nanos)
