"""Where a command writes: data to stdout, all else to stderr. Works when either is closed."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO


class OutputClosed(BaseException):
    """Nobody reads stdout any more. No `Exception`: nothing but the frame handles it."""


@dataclass(slots=True)
class Output:
    """The two streams, in bytes; None where one is closed."""

    out: BinaryIO | None
    err: BinaryIO | None

    @classmethod
    def of_process(cls) -> Output:
        """Those of this process."""
        return cls(
            sys.stdout.buffer if sys.stdout is not None else None,
            sys.stderr.buffer if sys.stderr is not None else None,
        )

    def data(self, text: str | bytes | memoryview) -> None:
        """Write to stdout; text as UTF-8, file names that are not keep their bytes.

        Raises:
            OutputClosed: the reader went away.
        """
        if self.out is None:
            return
        raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        try:
            self.out.write(raw)
        except BrokenPipeError:
            self._forget()

    def line(self, text: str) -> None:
        """Write a line to stdout."""
        self.data(text + "\n")

    def error(self, text: str) -> None:
        """Write lines to stderr; whatever could steer a terminal is escaped."""
        if self.err is None:
            return
        try:
            self.err.write(printable(text).encode("utf-8", "backslashreplace") + b"\n")
            self.err.flush()
        except (BrokenPipeError, OSError):
            self.err = None

    def flush(self) -> None:
        """Let what was written out; a reader that went away is no failure."""
        if self.out is None:
            return
        try:
            self.out.flush()
        except BrokenPipeError:
            with suppress(OutputClosed):
                self._forget()

    def _forget(self) -> None:
        # Python would flush what is buffered once more at its end, and complain.
        if self.out is not None:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.out.fileno())
            os.close(null)
            self.out = None
        raise OutputClosed


def printable(text: str) -> str:
    """`text` with its control characters, newlines apart, as escapes."""
    return "".join(
        character if character.isprintable() or character == "\n" else _escape(character)
        for character in text
    )


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004 - surrogateescape: a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"  # noqa: PLR2004 - a byte
