"""What the rest of the program asks of a remote. Knows nothing of Nix."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from nixfetch.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


class NotFoundError(TransportError):
    """The remote answered, and it has no such object."""


class ForbiddenError(NotFoundError):
    """The remote does not say whether there is such an object, or not to us (403).

    Object stores that may not list their keys answer so for keys that are not there.
    """


class AuthenticationError(TransportError):
    """The remote wants credentials that it was not given, or refuses the given ones."""


class UnsatisfiableRangeError(TransportError):
    """The object has no byte of the range that was asked for: it is shorter than thought."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Which bytes of an object are wanted."""

    start: int
    """Offset of the first byte, from 0."""
    stop: int | None = None
    """Offset behind the last byte; None: to the end."""
    validator: str | None = None
    """A `Body.validator` of an earlier answer: the range counts only if the object is that one."""

    def __post_init__(self) -> None:
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            message = f"no bytes between {self.start} and {self.stop}"
            raise ValueError(message)

    @property
    def whole(self) -> bool:
        """Whether it is the whole object."""
        return self.start == 0 and self.stop is None


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long a remote may let us wait, on the monotonic clock; None: without limit."""

    connect: float | None = 15.0  # Nix's connect-timeout
    """Seconds until a connection stands, with its TLS handshake, whatever addresses there are."""
    stall: float | None = 60.0  # Nix waits 300, which holds up a whole closure
    """Seconds of waiting in which at least `slowest` bytes for each of them have to come, of the
    head or the body of an answer. Time in which nobody reads is no waiting."""
    slowest: int = 1024
    """Bytes a second."""
    pausing: Callable[[], object] = field(default=_nothing, repr=False, compare=False)
    """Called now and then while an answer is waited for for long, by the thread that waits. Raises
    to give up. (S3's client waits by itself, and does not call it.)"""
    answered: Callable[[float], object] = field(default=_nothing, repr=False, compare=False)
    """Told how many seconds the remote took until the head of its answer was there, whatever that
    says; redirects are answers of their own. Waiting for a connection does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """An object on its way."""

    chunks: Iterator[bytes]
    """The bytes as they travel, in pieces of at most 256 KiB; still under `encoding`."""
    size: int | None = None
    """Bytes that `chunks` will give, where the remote says so beforehand."""
    encoding: str | None = None
    """The Content-Encoding that the bytes are under ("gzip", "br", "zstd"); None: none."""
    start: int = 0
    """Offset in the object of the first byte: 0 where a range was not asked for or not honoured."""
    validator: str | None = None
    """Names this version of the object, for `Range.validator`; None where none is strong."""


class Transport(Protocol):
    """One remote, such as ``https://cache.nixos.org`` or ``s3://bucket``; threads may share it."""

    @property
    def url(self) -> str:
        """Where it is, as a user would type it, without secrets and without parameters."""
        ...

    def open(
        self, name: str, wanted: Range | None = None, *, pace: Pace | None = None
    ) -> AbstractContextManager[Body]:
        """Start reading one object.

        Args:
            name: a relative URL below the remote, such as ``nar/0rd…9p.nar.xz``; transports
                over HTTP take an absolute http or https URL too.
            wanted: the part to read; the whole object without it. A remote that cannot do
                ranges answers with the whole object: look at `Body.start`.
            pace: how long it may take; the transport's own without it.

        Raises:
            NotFoundError: there is no such object; `ForbiddenError` where it does not say.
            AuthenticationError: the remote wants other credentials.
            UnsatisfiableRangeError: `wanted` begins behind the object's end.
            TransportError: anything else; `retryable` says whether to try again. Bodies that
                end before the announced size are a retryable TransportError. All of them here
                or while `Body.chunks` is read.
        """
        ...

    def close(self) -> None:
        """Let go of connections; the transport is not used afterwards."""
        ...
