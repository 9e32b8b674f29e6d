"""A connection to containerd for calls that take a while, can be given up, or are passed through.

Knows the wire; decides nothing. It is made when it is first needed and made again when it was
lost, after 0.1 to 5 seconds; calls fail at once meanwhile.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final, Generic, NoReturn, Self, TypeVar
from urllib.parse import quote

import grpc

import nixfetch
from snapshotter.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    PreconditionError,
    SnapshotterError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from google.protobuf.message import Message

PATIENCE = 60.0  # seconds for a call that containerd answers in milliseconds, but for a slow disk
LOOK = 0.25  # seconds between two looks whether somebody still waits for us
MAX_MESSAGE = 16 * 1024 * 1024  # bytes; containerd's own limit, four times that of gRPC
FIRST_PAUSE, LAST_PAUSE = 0.1, 5.0  # seconds between attempts to connect

Metadata = tuple[tuple[str, str], ...]

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.default_authority", "localhost"),  # else the socket's path, which servers may refuse
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", int(FIRST_PAUSE * 1000)),
    ("grpc.min_reconnect_backoff_ms", int(FIRST_PAUSE * 1000)),
    ("grpc.max_reconnect_backoff_ms", int(LAST_PAUSE * 1000)),
)
_ERRORS: Final = {
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionError,
}

Answer = TypeVar("Answer", bound="Message")


class Connection(AbstractContextManager["Connection"]):
    """One connection to a containerd; threads may share it.

    Args:
        socket: containerd's own, as `grpc.address` in its configuration names it.
    """

    def __init__(self, socket: Path | str) -> None:
        self.socket = str(socket)
        self._channel = grpc.insecure_channel(f"unix:{quote(self.socket)}", options=_OPTIONS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; calls that are under way end. May be called again."""
        self._channel.close()

    def call(
        self,
        method: str,
        request: Message,
        answer: type[Answer],
        *,
        metadata: Metadata = (),
        timeout: float | None = PATIENCE,
        cancelled: Callable[[], bool] | None = None,
    ) -> Answer:
        """One call that has one answer.

        Args:
            method: ``/package.Service/Method``.
            request: its message.
            answer: the class of the message that comes back.
            metadata: what goes along: a namespace, a lease.
            timeout: seconds; None: as long as it takes.
            cancelled: whether nobody wants it any more; the call is given up then.

        Raises:
            AlreadyExistsError, NotFoundError, InvalidArgumentError, PreconditionError: containerd
                says so.
            UnavailableError: it failed in another way. As all of these it has the facts `method`,
                `status` and `reason`.
            CancelledError: `cancelled` said so.
        """
        ask = self._channel.unary_unary(
            method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        try:
            if cancelled is None:
                found: Answer = ask(request, timeout=timeout, metadata=metadata)
            else:
                future = ask.future(request, timeout=timeout, metadata=metadata)
                found = self._awaited(future, cancelled, method)
        except grpc.RpcError as error:
            self.fail(method, error)
        return found

    def _awaited(
        self, future: grpc.CallFuture[Answer], cancelled: Callable[[], bool], method: str
    ) -> Answer:
        while True:
            try:
                found: Answer = future.result(timeout=LOOK)
            except grpc.FutureTimeoutError:
                if not cancelled():
                    continue
                future.cancel()  # type: ignore[no-untyped-call]
                raise nixfetch.CancelledError(
                    "caller has given up", waiting_for=_short(method)
                ) from None
            return found

    def exchange(
        self,
        method: str,
        requests: Callable[[], Iterator[Message]],
        answer: type[Answer],
        *,
        metadata: Metadata = (),
        timeout: float | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Exchange[Answer]:
        """Begin one call with many messages both ways.

        Args:
            method: ``/package.Service/Method``.
            requests: gives the messages to send; iterated in a thread of gRPC's.
            answer: the class of the messages that come back.
            metadata: what goes along.
            timeout: seconds for all of it; None: as long as it takes.
            cancelled: whether nobody wants it any more; asked as often as something comes back.
        """
        ask = self._channel.stream_stream(
            method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        sender = _Sender(requests)
        answers = ask(sender.messages(), metadata=metadata, timeout=timeout)
        return Exchange(answers, sender, self, method, cancelled)

    def forward(
        self,
        method: str,
        request: bytes,
        *,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        timeout: float | None = None,
    ) -> grpc.CallFuture[bytes]:
        """Begin a call whose messages stay bytes; errors stay gRPC's own."""
        ask = self._channel.unary_unary(method, _same, _same)
        return ask.future(request, timeout=timeout, metadata=tuple(metadata))

    def forward_stream(
        self,
        method: str,
        request: bytes,
        *,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        timeout: float | None = None,
    ) -> grpc.CallIterator[bytes]:
        """As `forward`, for a call with many answers."""
        ask = self._channel.unary_stream(method, _same, _same)
        return ask(request, timeout=timeout, metadata=tuple(metadata))

    def fail(self, method: str, error: grpc.RpcError) -> NoReturn:
        """Raise what an error of gRPC is here: see `call`."""
        status = error.code()
        kind: type[SnapshotterError] = _ERRORS.get(status, UnavailableError)
        problem = "containerd does not answer" if _is_silence(status) else "containerd refused"
        failed = kind(
            problem,
            method=_short(method),
            status=status.name,
            reason=error.details(),
            socket=self.socket if _is_silence(status) else None,
        )
        failed.facts = {name: fact for name, fact in failed.facts.items() if fact is not None}
        raise failed from error


def _same(data: bytes) -> bytes:
    return data


def _is_silence(status: grpc.StatusCode) -> bool:
    return status in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def _short(method: str) -> str:
    """``Service/Method``, less the package."""
    return method.rpartition(".")[2]


class Exchange(Generic[Answer]):
    """A call with many messages both ways, which is under way."""

    def __init__(
        self,
        answers: grpc.CallIterator[Answer],
        sender: _Sender,
        connection: Connection,
        method: str,
        cancelled: Callable[[], bool],
    ) -> None:
        self._answers, self._sender = answers, sender
        self._connection, self._method, self._cancelled = connection, method, cancelled

    def end(self) -> Answer | None:
        """Wait until all is sent and answered; gives the last answer.

        Raises:
            SnapshotterError: as `Connection.call`.
            CancelledError: nobody wants it any more.
            NixfetchError: what the messages raised. The other side then sees an end too early.
        """
        last: Answer | None = None
        try:
            for last in self._answers:  # noqa: B007 - the last one is the one
                if self._cancelled():
                    self.abandon()
                    raise nixfetch.CancelledError(
                        "caller has given up", waiting_for=_short(self._method)
                    )
        except grpc.RpcError as error:
            self._sender.check()
            self._connection.fail(self._method, error)
        finally:
            self._sender.stop()
        self._sender.check()
        return last

    def abandon(self) -> None:
        """Give it up; nothing happens when it is over."""
        self._sender.stop()
        self._answers.cancel()  # type: ignore[no-untyped-call]


class _Sender:
    """Messages that a thread of gRPC's takes; it must not see their errors."""

    def __init__(self, requests: Callable[[], Iterator[Message]]) -> None:
        self._requests = requests
        self._lock = threading.Lock()  # while a message is made
        self._stopped = False
        self._error: nixfetch.NixfetchError | None = None

    def messages(self) -> Iterator[Message]:
        made = self._requests()
        while (message := self._next(made)) is not None:
            yield message

    def _next(self, made: Iterator[Message]) -> Message | None:
        with self._lock:
            if self._stopped:
                return None
            try:
                return next(made, None)
            except nixfetch.NixfetchError as error:
                self._error = error
                return None

    def stop(self) -> None:
        """Make no more messages; none is being made when this returns."""
        with self._lock:
            self._stopped = True

    def check(self) -> None:
        """Raise what made the messages end."""
        if self._error is not None:
            raise self._error
