"""For tests of the frame: the command in this process, with streams and environment of its own."""

from __future__ import annotations

import io
import json
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from command import Ran
from nixfetch.cli import app
from nixfetch.cli.output import Output

FIXTURES = Path(__file__).parents[3] / "fixtures"
PATHS: dict[str, Any] = json.loads((FIXTURES / "paths.json").read_text())


class Terminal(io.BytesIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


Run = Callable[..., Ran]


@pytest.fixture(autouse=True)
def process_left_alone() -> Iterator[None]:
    """Logging and signals are the process's: put back what a test changes."""
    logger = logging.getLogger("nixfetch")
    logs = logger.handlers[:], logger.propagate, logger.level
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    yield
    logger.handlers[:], logger.propagate = logs[0], logs[1]
    logger.setLevel(logs[2])
    for number, handler in handlers.items():
        signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def run() -> Run:
    """Runs a command line with no settings but its flags and `environ`."""

    def command(
        *arguments: str | Path, environ: Mapping[str, str] | None = None, terminal: bool = False
    ) -> Ran:
        out, err = io.BytesIO(), Terminal() if terminal else io.BytesIO()
        code = app.run(
            list(map(str, arguments)),
            output=Output(out, err),
            environ={"HOME": "/nowhere", "XDG_CONFIG_DIRS": "/nowhere", **(environ or {})},
        )
        return Ran(code, out.getvalue().decode(), err.getvalue().decode())

    return command


@pytest.fixture
def closure() -> dict[str, Any]:
    """The closure of the fixtures, as paths.json has it."""
    return PATHS


@pytest.fixture
def source() -> list[str]:
    """The flags for the cache of the fixtures, and its key."""
    key = PATHS["keys"]["fixture-1"]["public"]
    return ["--from", (FIXTURES / "cache-zstd").as_uri(), "--trusted-key", key]
