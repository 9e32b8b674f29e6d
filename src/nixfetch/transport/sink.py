"""What the rest of the program asks of a remote that it writes to. Knows nothing of Nix.

An object appears whole or not at all, whatever happens to who writes it: under its name there
is what was there before, or all of what was written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from nixfetch.transport.base import AuthenticationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

T = TypeVar("T")


class ReadOnlyError(AuthenticationError):
    """The remote lets us read, or not even that, but not write."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An object that a remote has."""

    name: str
    """Relative, as `Transport.open` takes it, but not percent-encoded."""
    size: int
    """Bytes."""
    modified: float
    """Seconds since 1970."""


class Persist(Protocol):
    """Does something until it is done, or not worth it any more: who knows when to try again."""

    def __call__(self, act: Callable[[], T]) -> T:
        """Call `act` until it raises no `TransportError` that is `retryable`."""
        ...


class Upload(Protocol):
    """An object on its way there."""

    def write(self, data: bytes) -> None:
        """Take the next bytes, in pieces of any size."""
        ...


class Sink(Protocol):
    """One remote to write to; threads may share it. Names are those of `Transport.open`."""

    @property
    def url(self) -> str:
        """Where it is, without secrets and without parameters."""
        ...

    def writing(self, name: str, *, size: int | None = None) -> AbstractContextManager[Upload]:
        """Write one object, of any size; it is there when the block is left normally.

        An object of that name is replaced. Leaving the block by an exception leaves nothing.

        Args:
            name: of the object.
            size: bytes, or the most that there can be, where that is known beforehand.

        Raises:
            ReadOnlyError: we may not write there.
            StoreError: a directory of this machine cannot take it.
            TransportError: anything else. All of them here, in `write`, or when it is left.
        """
        ...

    def put(self, name: str, data: bytes, *, replace: bool = True) -> bool:
        """Write a small object.

        Args:
            name: of the object.
            data: all of it.
            replace: False to leave alone one that is there already.

        Returns:
            Whether it was written; False: there was one.

        Raises:
            As `writing`.
        """
        ...

    def size(self, name: str) -> int | None:
        """Bytes of an object; None: there is none.

        Raises:
            As `writing`.
        """
        ...

    def entries(self, folder: str = "") -> Iterator[Entry]:
        """The objects right in `folder`, in no order; not those below folders of it.

        Raises, while it is iterated:
            As `writing`.
        """
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects, in their order; those that are not there are fine.

        Raises:
            As `writing`.
        """
        ...

    def close(self) -> None:
        """Let go of connections; the sink is not used afterwards."""
        ...
