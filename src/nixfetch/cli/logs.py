"""Logs on stderr, as text, as JSON lines, or as Nix writes them for its own tools.

text            warning: …
json            {"level": "warning", "logger": "nixfetch.cache.group", "message": "…"}
internal-json   @nix {"action": "msg", "level": 1, "msg": "…"}
"""

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
    _log.handlers[:] = [_Handler(output, log_format)]
    _log.propagate = False
    lowest = min(_LEVELS)
    _log.setLevel(_LEVELS.get(max(lowest, verbosity), logging.DEBUG))


def note(text: str) -> None:
    """Warn of something that the user should hear."""
    _log.warning("%s", text)


def line(log_format: str, level: int, text: str, *, logger: str = "nixfetch.cli") -> str:
    """A message as it stands on stderr.

    Args:
        log_format: text, json or internal-json.
        level: of the `logging` module.
        text: what to say.
        logger: who says it.
    """
    match log_format:
        case "json":
            name = logging.getLevelName(level).lower()
            return json.dumps({"level": name, "logger": logger, "message": text})
        case "internal-json":
            return nix({"action": "msg", "level": _NIX_LEVELS.get(level, 6), "msg": text})
        case _:
            prefix = "" if level == logging.INFO else f"{logging.getLevelName(level).lower()}: "
            return prefix + text


def nix(message: dict[str, object]) -> str:
    """A line of Nix's ``internal-json``.

    Source: nix, src/libutil/logging.cc, `JSONLogger`.
    """
    return "@nix " + json.dumps(message, separators=(",", ":"), sort_keys=True)


class _Handler(logging.Handler):
    """Writes each record as one line."""

    def __init__(self, output: Output, log_format: str) -> None:
        super().__init__()
        self._output = output
        self._format = log_format

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self._output.error(line(self._format, record.levelno, text, logger=record.name))
