"""Where a command writes: data to stdout, all else to stderr. Works when either is closed.

stderr is shared by logs, errors and the bar of a terminal, and by threads, so every byte of it
goes through `Output`: whatever writes a line takes the bar away first and puts it back after.
What is written there is safe to look at: control characters are escaped, secrets blotted out.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO, TextIO

from nixfetch.errors import StoreError

_NOBODY_READS = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ESHUTDOWN})
_SECRETS = (
    # https://user:password@host
    (re.compile(r"(?<=://)[^\s/?#]*@"), ""),
    # ?X-Amz-Signature=…&token=…
    (
        re.compile(
            r"([?&][^\s=&?]*(?:sig|token|cred|secret|passw|auth|key|policy)[^\s=&?]*=)[^\s&#\"']+",
            re.IGNORECASE,
        ),
        r"\1REDACTED",
    ),
    # NAME:BASE64 of 64 bytes, which is a secret key; a public one has 32
    (re.compile(r"([\w.+-]+):[A-Za-z0-9+/]{80,}={0,2}"), r"\1:REDACTED"),
)


class OutputClosed(BaseException):
    """Nobody reads stdout any more. No `Exception`: nothing but the frame handles it."""


class OutputError(StoreError):
    """stdout cannot be written to, as on a full disk."""


@dataclass(slots=True)
class Output:
    """The two streams, in bytes; None where one is closed."""

    out: BinaryIO | None
    err: BinaryIO | None
    goes_on: bool = field(default=False, init=False)
    """Whether a command has more to do than to print: then a reader of stdout that went away is
    no reason to stop, and what is still printed is dropped."""
    _bar: str = field(default="", init=False)  # what stands in the last line of the terminal
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @classmethod
    def of_process(cls) -> Output:
        """Those of this process."""
        return cls(_bytes_of(sys.stdout), _bytes_of(sys.stderr))

    def data(self, text: str | bytes | memoryview) -> None:
        """Write to stdout; text as UTF-8, file names that are not keep their bytes.

        Raises:
            OutputClosed: the reader went away.
            OutputError: it cannot be written to.
        """
        if self.out is None:
            return
        if self._bar:
            self.bar("")
        raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        try:
            self.out.write(raw)
        except OSError as error:
            self._failed(error)

    def line(self, text: str) -> None:
        """Write a line to stdout; raises as `data` does."""
        self.data(text + "\n")

    def flush(self) -> None:
        """Let what was written out; raises as `data` does."""
        if self.out is None:
            return
        try:
            self.out.flush()
        except OSError as error:
            self._failed(error)

    def error(self, text: str) -> None:
        """Write lines to stderr. Any thread may."""
        with self._lock:
            bar, self._bar = self._bar, ""
            self._write(_erasing(bar, self.width()) + _bytes(shown(text)) + b"\n" + _bytes(bar))
            self._bar = bar

    def bar(self, text: str) -> None:
        """Let `text` stand in the last line of the terminal; nothing for an empty one."""
        with self._lock:
            if text or self._bar:
                text = printable(text).replace("\n", " ")
                self._write(_erasing(self._bar, self.width()) + _bytes(text))
                self._bar = text

    def width(self) -> int:
        """Columns of the terminal that stderr is, right now; 80 where it is none."""
        try:
            return (os.get_terminal_size(self.err.fileno()).columns if self.err else 0) or 80
        except (OSError, ValueError):
            return 80

    def on_terminal(self) -> bool:
        """Whether stderr is a terminal."""
        return self.err is not None and self.err.isatty()

    def _write(self, raw: bytes) -> None:
        if self.err is None:
            return
        try:
            self.err.write(raw)
            self.err.flush()
        except OSError:
            _silence(self.err)
            self.err = None

    def _failed(self, error: OSError) -> None:
        stream, self.out = self.out, None
        if stream is not None:
            _silence(stream)
        if error.errno in _NOBODY_READS:
            if self.goes_on:
                return
            raise OutputClosed from error
        raise OutputError("cannot write to stdout", reason=error.strerror) from error


def shown(text: str) -> str:
    """`text` as it may be shown: without secrets, and with nothing that steers a terminal."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return printable(text)


def printable(text: str) -> str:
    """`text` with its control characters, newlines apart, as escapes."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(
        character if character.isprintable() or character == "\n" else _escape(character)
        for character in text
    )


def _bytes_of(stream: TextIO | None) -> BinaryIO | None:
    if stream is None:
        return None
    with suppress(OSError):  # a parent's event loop may have left it non-blocking
        os.set_blocking(stream.fileno(), True)
    return stream.buffer


def _silence(stream: BinaryIO) -> None:
    """Let what is buffered go nowhere: Python flushes it once more at its end, and complains."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, stream.fileno())
        finally:
            os.close(null)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _erasing(bar: str, width: int) -> bytes:
    """What takes `bar` off the terminal, also when that was narrowed and wrapped it."""
    if not bar:
        return b""
    rows_above = (len(bar) - 1) // width
    return (b"\x1b[%dA" % rows_above if rows_above else b"") + b"\r\x1b[J"


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004 - surrogateescape: a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"  # noqa: PLR2004 - a byte
