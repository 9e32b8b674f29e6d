"""What comes of commands, and the `nixfetch` command in this process."""

from __future__ import annotations

import io
import logging
import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from nixfetch.cli import app
from nixfetch.cli.output import Output

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of one command."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines on stderr that begin an error."""
        return [line for line in self.err.splitlines() if line.startswith("error:")]


@dataclass(frozen=True, slots=True)
class Raw:
    """The same, with the very bytes of its output."""

    code: int
    out: bytes
    err: str


def nixfetch(
    *arguments: str | Path, stdin: bytes | None = None, stdout: BinaryIO | None = None
) -> Raw:
    """Run one command line, with no settings but its flags."""
    out, err = io.BytesIO(), io.BytesIO()
    with _logger_left_alone(), _stdin(stdin):
        code = app.run(
            list(map(str, arguments)),
            output=Output(stdout or out, err),
            environ={"HOME": "/nowhere", "XDG_CONFIG_DIRS": "/nowhere"},
        )
    return Raw(code, out.getvalue(), err.getvalue().decode())


@contextmanager
def _stdin(data: bytes | None) -> Iterator[None]:
    """Let descriptor 0 give `data`."""
    if data is None:
        yield
        return
    before = os.dup(0)
    try:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            os.dup2(file.fileno(), 0)
            yield
    finally:
        os.dup2(before, 0)
        os.close(before)


@contextmanager
def _logger_left_alone() -> Iterator[None]:
    logger = logging.getLogger("nixfetch")
    handlers, propagate, level = logger.handlers[:], logger.propagate, logger.level
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)
