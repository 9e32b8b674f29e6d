"""Logs on stderr, as text, as JSON lines, or as Nix writes them for its own tools."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nixfetch.cli.output import Output

_log = logging.getLogger("nixfetch")
_NIX_LEVELS = {logging.ERROR: 0, logging.WARNING: 1, logging.INFO: 3, logging.DEBUG: 6}
_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}


def set_up(output: Output, log_format: str, verbosity: int) -> None:
    """Send what the library logs to stderr.

    Args:
        output: whose stderr.
        log_format: text, json or internal-json.
        verbosity: 0 for warnings, above for more, below for less.
    """
    handler = _Handler(output, log_format)
    _log.handlers[:] = [handler]
    _log.propagate = False
    lowest = min(_LEVELS)
    _log.setLevel(_LEVELS.get(max(lowest, verbosity), logging.DEBUG))


def note(text: str) -> None:
    """Warn of something that the user should hear."""
    _log.warning("%s", text)


class _Handler(logging.Handler):
    """Writes each record as one line."""

    def __init__(self, output: Output, log_format: str) -> None:
        super().__init__()
        self._output = output
        self._render = {"text": _text, "json": _json, "internal-json": _internal_json}[log_format]

    def emit(self, record: logging.LogRecord) -> None:
        self._output.error(self._render(record))


def _text(record: logging.LogRecord) -> str:
    return f"{record.levelname.lower()}: {record.getMessage()}"


def _json(record: logging.LogRecord) -> str:
    level = record.levelname.lower()
    return json.dumps({"level": level, "logger": record.name, "message": record.getMessage()})


def _internal_json(record: logging.LogRecord) -> str:
    level = _NIX_LEVELS.get(record.levelno, 6)
    return "@nix " + json.dumps({"action": "msg", "level": level, "msg": record.getMessage()})
