"""Limits on streams of bytes. Knows numbers, not what they are for: `what` says that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nixfetch.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class TooLargeError(FormatError):
    """More bytes came than may be. Facts: `what` they are of, and the `limit` in bytes."""


def at_most(chunks: Iterable[bytes], limit: int, *, what: str) -> Iterator[bytes]:
    """Pass chunks on, up to a limit.

    Args:
        chunks: bytes in pieces of any size.
        limit: bytes that may come.
        what: they are of; a noun for the error, such as "narinfo".

    Returns:
        The chunks, untouched.

    Raises, while it is iterated:
        TooLargeError: instead of the chunk that would go over the limit.
    """
    left = limit
    for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            raise TooLargeError("more bytes than allowed", what=what, limit=limit)
        yield chunk


def read_all(chunks: Iterable[bytes], limit: int, *, what: str) -> bytes:
    """Join chunks of at most `limit` bytes together; the rest is as for `at_most`.

    Raises:
        TooLargeError: more than `limit` bytes came.
    """
    return b"".join(at_most(chunks, limit, what=what))
