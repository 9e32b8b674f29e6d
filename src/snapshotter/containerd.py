"""A client of containerd, over its socket. Knows the wire; decides nothing.

with Containerd(Path("/run/containerd/containerd.sock")) as containerd:
    containerd.version()                          # (2, 1, 9)
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self, TypeVar
from urllib.parse import quote

import grpc
from google.protobuf.empty_pb2 import Empty

from snapshotter._pb.health_pb2 import HealthCheckRequest, HealthCheckResponse
from snapshotter._pb.introspection_pb2 import PluginsRequest, PluginsResponse
from snapshotter._pb.version_pb2 import VersionResponse
from snapshotter.errors import PreconditionError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from google.protobuf.message import Message

TIMEOUT = 5.0  # seconds for one call; containerd answers in milliseconds
MAX_MESSAGE = 16 * 1024 * 1024  # bytes; containerd's own limit, four times that of gRPC

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.default_authority", "localhost"),  # else the socket's path, which servers may refuse
    ("grpc.enable_http_proxy", 0),
)
_VERSION = re.compile(r"v?(\d{1,5})\.(\d{1,5})(?:\.(\d{1,5}))?(?![0-9])")

Answer = TypeVar("Answer", bound="Message")


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin of a containerd that runs."""

    type: str
    """As ``io.containerd.snapshotter.v1``."""
    name: str
    problem: str | None
    """Why it cannot be used; None: it can."""


class Containerd(AbstractContextManager["Containerd"]):
    """One connection to a containerd; threads may share it.

    Args:
        socket: containerd's own, as `grpc.address` in its configuration names it.
        timeout: seconds for one call.
    """

    def __init__(self, socket: Path | str, *, timeout: float = TIMEOUT) -> None:
        self.socket = str(socket)
        self._timeout = timeout
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
        """Hang up; may be called again."""
        self._channel.close()

    def version(self) -> tuple[int, int, int]:
        """Which containerd this is.

        Raises:
            UnavailableError: it does not answer.
            PreconditionError: what it says is no version.
        """
        method = "/containerd.services.version.v1.Version/Version"
        return parse_version(self.call(method, Empty(), VersionResponse).version)

    def is_serving(self) -> bool:
        """Whether it says that it serves; our own daemon is asked in the same words.

        Raises:
            UnavailableError: it does not answer.
        """
        method = "/grpc.health.v1.Health/Check"
        found = self.call(method, HealthCheckRequest(), HealthCheckResponse)
        return found.status == HealthCheckResponse.SERVING

    def plugins(self, kind: str) -> tuple[Plugin, ...]:
        """The plugins of one type, by name.

        Args:
            kind: as ``io.containerd.snapshotter.v1``.

        Raises:
            UnavailableError: it does not answer.
        """
        method = "/containerd.services.introspection.v1.Introspection/Plugins"
        request = PluginsRequest(filters=[f"type=={kind}"])
        return tuple(
            Plugin(found.type, found.id, found.init_err.message or None)
            for found in sorted(
                self.call(method, request, PluginsResponse).plugins, key=lambda found: found.id
            )
        )

    def call(
        self,
        method: str,
        request: Message,
        answer: type[Answer],
        *,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> Answer:
        """One call that has one answer.

        Args:
            method: ``/package.Service/Method``.
            request: its message.
            answer: the class of the message that comes back.
            metadata: what goes along: a namespace, a lease.

        Raises:
            UnavailableError: it failed; the facts `status` and `reason` say how.
        """
        ask = self._channel.unary_unary(
            method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        try:
            found: Answer = ask(request, timeout=self._timeout, metadata=tuple(metadata))
        except grpc.RpcError as error:
            raise UnavailableError(
                "containerd does not answer",
                socket=self.socket,
                method=method.rpartition("/")[2],
                status=error.code().name,
                reason=error.details(),
                hint="is containerd running, and may we open its socket?",
            ) from error
        return found


def version(socket: Path | str, *, timeout: float = TIMEOUT) -> tuple[int, int, int]:
    """The version of the containerd behind `socket`; errors as `Containerd.version` has them."""
    with Containerd(socket, timeout=timeout) as containerd:
        return containerd.version()


def parse_version(text: str) -> tuple[int, int, int]:
    """The three numbers of a version, as containerd and its packagers write it.

        >>> parse_version("1.6.20~ds1"), parse_version("v2.1.0-rc.1"), parse_version("2.0")
        ((1, 6, 20), (2, 1, 0), (2, 0, 0))

    Raises:
        PreconditionError: it is none.
    """
    found = _VERSION.match(text)
    if found is None:
        raise PreconditionError("containerd says no version that we can read", version=text[:100])
    return int(found[1]), int(found[2]), int(found[3] or 0)
