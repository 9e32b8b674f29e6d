"""What every decoder looks like, and how it fails. Knows no compression.

A decoder is pushed: `feed` takes what has come and gives what that makes, `finish`
says that no more will come. Three things hold for all of them:

- No piece of output is longer than `PIECE`, and the next one is made only when it is
  asked for. A bomb costs the decoder's own window and one piece, however much it holds.
- The input is one complete encoding and nothing else: whatever is damaged, cut short or
  followed by other bytes is refused, and so is no input at all.
- Errors are final: a decoder that has raised is not used again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from nixfetch.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 256 * 1024  # bytes of output at a time; fits a core's second cache together with its input
SLICE = (
    64 * 1024
)  # bytes of input at a time; libraries copy what they have not consumed at each call
MEMORY_LIMIT = 128 * 1024 * 1024  # bytes of window; Nix refuses wider zstd, `xz -9` needs 65 MiB


class CodecError(FormatError):
    """The data is not what its compression calls for, or not only that.

    Facts: `compression`, and `reason` in the words of whoever found it.
    """


class TruncatedError(CodecError):
    """The data is fine so far, and ends before its end."""


class MemoryLimitError(CodecError):
    """Decoding the data takes a wider window than is allowed. Facts: `limit`, `needed` if known."""


class Decoder(Protocol):
    """One encoding being undone."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes of the encoded data; give what they decode to.

        Args:
            data: any number of bytes, cut anywhere.

        Returns:
            Non-empty pieces of at most `PIECE` bytes. They are to be exhausted before the
            decoder is used again.

        Raises, while it is iterated:
            CodecError: the data is damaged, or has bytes after its end.
            MemoryLimitError: the data asks for more memory than is allowed.
        """
        ...

    def finish(self) -> None:
        """Say that all data has been fed.

        Raises:
            TruncatedError: the data ends too early.
        """
        ...


def damaged(compression: str, reason: str) -> CodecError:
    """The error that says why the data is not what `compression` calls for."""
    return CodecError("compressed data is damaged", compression=compression, reason=reason)


def truncated(compression: str) -> TruncatedError:
    """The error that says that the data ends too early."""
    return TruncatedError("compressed data ends too early", compression=compression)


def too_wide(compression: str, limit: int, **known: int) -> MemoryLimitError:
    """The error that says that decoding would take more than `limit` bytes."""
    return MemoryLimitError(
        "decompression takes more memory than allowed",
        compression=compression,
        limit=limit,
        hint=None,
        **known,
    )
