"""CRI's ImageService (runtime.v1) on the wire: images of the store are ours, all else is passed on.

    PullImage  nix:0/nix/store/…     `pulls`
    RemoveImage                      passed on; then nothing is kept any more for what is gone
    ImageFsInfo                      passed on; a directory that is not there becomes ours
    all other methods and images     containerd's, byte for byte

What is passed on is never understood, so methods and fields that come later work as well.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

import nixfetch
from snapshotter._pb import cri_pb2
from snapshotter.cri.runtime import SERVICE
from snapshotter.errors import InvalidArgumentError, UnavailableError
from snapshotter.grpc_errors import status_of, text_of
from snapshotter.imageref import NIX_HOST, NixReference, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    from snapshotter.cri.connection import Connection
    from snapshotter.cri.pulls import Pulls

    class Observer(Protocol):
        """Is told of each call."""

        def called(self, method: str, status: str, seconds: float) -> None: ...


MAX_PULLS = 64
"""At a time. Each keeps a thread of ours, and containerd calls our snapshotter for most of them:
half of the threads have to be left for that."""

_STREAMS = frozenset({"StreamImages"})
_METHODS = _STREAMS | {"ListImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo"}
_DETAILS = "grpc-status-details-bin"
_OF_THE_HOP = ("grpc-", ":", "user-agent", "content-type", "te")
"""Metadata that are about this connection, and not about the call."""

_log = logging.getLogger(__name__)


class BusyError(UnavailableError):
    """Too many pulls at a time."""


def handler(
    connection: Connection, pulls: Pulls, observer: Observer, *, root: Path
) -> grpc.GenericRpcHandler[Any, Any]:
    """The service, for a server.

    Args:
        connection: to containerd.
        pulls: has what is ours.
        observer: is told of each call.
        root: where our snapshots are.
    """
    return _Handler(connection, pulls, observer, root)


class _Handler(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # none at run time
    def __init__(
        self, connection: Connection, pulls: Pulls, observer: Observer, root: Path
    ) -> None:
        self._connection, self._pulls, self._observer = connection, pulls, observer
        self._root = root
        self._pulling = threading.BoundedSemaphore(MAX_PULLS)

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        service, _, method = handler_call_details.method.removeprefix("/").partition("/")
        if service != SERVICE:
            return None
        if method in _STREAMS:
            return grpc.unary_stream_rpc_method_handler(self._observed(method, self._stream))
        own = {
            "PullImage": self._pull,
            "RemoveImage": self._remove,
            "ImageFsInfo": self._fs_info,
        }
        return grpc.unary_unary_rpc_method_handler(
            self._observed(method, own.get(method, self._pass))
        )

    def _observed(
        self, method: str, behaviour: Callable[[str, bytes, grpc.ServicerContext], Any]
    ) -> Callable[[bytes, grpc.ServicerContext], Any]:
        """`behaviour`, with errors as statuses, measured and logged."""
        name = method if method in _METHODS else "other"  # callers may say anything

        def answer(request: bytes, context: grpc.ServicerContext) -> Any:
            began = time.perf_counter()
            status = grpc.StatusCode.INTERNAL
            try:
                response = behaviour(method, request, context)
                status = grpc.StatusCode.OK
            except nixfetch.NixfetchError as error:
                status, text = status_of(error), text_of(error)
                _log.warning("%s: %s: %s", name, status.name, text)
                context.abort(status, text)
            except _PassedOnError as error:
                status = error.status
                context.set_trailing_metadata(error.details)
                context.abort(status, error.text)
            except Exception as error:  # noqa: BLE001 - the caller has to hear something
                _log.exception("%s: a bug", name)
                context.abort(status, f"unforeseen: {type(error).__name__}")
            finally:
                self._observer.called(name, status.name, time.perf_counter() - began)
            return response

        return answer

    # Methods.

    def _pull(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        if not self._pulling.acquire(blocking=False):
            raise BusyError("too many images are being pulled", hint="try again in a moment")
        try:
            reference = _of_the_store(request)
            if reference is None:
                return self._pass(method, request, context)
            id_ = self._pulls.pull(reference, cancelled=lambda: not context.is_active())
            return cri_pb2.PullImageResponse(image_ref=id_).SerializeToString()
        finally:
            self._pulling.release()

    def _remove(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        answer = self._pass(method, request, context)
        self._pulls.try_sweep()
        return answer

    def _fs_info(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        # Containerd 1.x takes it for granted that a snapshotter lives in a directory below its own
        # root, and kubelet asks for the space that is free there.
        answer = cri_pb2.ImageFsInfoResponse.FromString(self._pass(method, request, context))
        for usage in (*answer.image_filesystems, *answer.container_filesystems):
            if not Path(usage.fs_id.mountpoint).is_dir():
                usage.fs_id.mountpoint = str(self._root)
        return answer.SerializeToString()

    def _pass(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        future = self._connection.forward(
            f"/{SERVICE}/{method}",
            request,
            metadata=_metadata(context),
            timeout=context.time_remaining(),
        )
        if not context.add_callback(future.cancel):
            future.cancel()  # type: ignore[no-untyped-call]
        try:
            return future.result()
        except grpc.FutureCancelledError:
            raise _PassedOnError(grpc.StatusCode.CANCELLED, "caller has given up") from None
        except grpc.RpcError as error:
            _pass_on(error)

    def _stream(
        self, method: str, request: bytes, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        answers = self._connection.forward_stream(
            f"/{SERVICE}/{method}",
            request,
            metadata=_metadata(context),
            timeout=context.time_remaining(),
        )
        if not context.add_callback(answers.cancel):
            answers.cancel()  # type: ignore[no-untyped-call]
        return _each(answers, context)


def _each(answers: grpc.CallIterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    try:
        yield from answers
    except grpc.RpcError as error:
        context.abort(error.code(), error.details() or "")


def _of_the_store(request: bytes) -> NixReference | None:
    """The image of the store that is to be pulled; None: it is another's.

    Raises:
        ImageReferenceError: it is to be one of the store, and is not.
    """
    try:
        image = cri_pb2.PullImageRequest.FromString(request).image.image
    except DecodeError as error:
        raise InvalidArgumentError("message cannot be read") from error
    if not image.startswith(f"{NIX_HOST}/"):
        return None
    found = parse(image)
    return found if isinstance(found, NixReference) else None


class _PassedOnError(Exception):
    """An error of containerd's, for the caller as it is."""

    def __init__(
        self, status: grpc.StatusCode, text: str, details: tuple[tuple[str, bytes], ...] = ()
    ) -> None:
        super().__init__(text)
        self.status, self.text, self.details = status, text, details


def _pass_on(error: grpc.RpcError) -> NoReturn:
    found: Any = error.trailing_metadata() or ()
    details = tuple((key, value) for key, value in found if key == _DETAILS)
    raise _PassedOnError(error.code(), error.details() or "", details) from error


def _metadata(context: grpc.ServicerContext) -> list[tuple[str, str | bytes]]:
    found: Any = context.invocation_metadata()
    return [(key, value) for key, value in found if not key.startswith(_OF_THE_HOP)]
