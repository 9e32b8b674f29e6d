from __future__ import annotations

import io
import json
import logging

import pytest

from nixfetch.cli import logs
from nixfetch.cli.output import Output

LOG = logging.getLogger("nixfetch.cache.test")


def logged(log_format: str, verbosity: int) -> list[str]:
    err = io.BytesIO()
    logs.set_up(Output(None, err), log_format, verbosity)
    LOG.debug("a %s", "debug")
    LOG.info("an %s", "info")
    logs.note("a note: 100%")
    LOG.error("an error")
    return err.getvalue().decode().splitlines()


@pytest.mark.parametrize(
    ("verbosity", "expected"),
    [
        (-2, ["error: an error"]),
        (-1, ["error: an error"]),
        (0, ["warning: a note: 100%", "error: an error"]),
        (1, ["an info", "warning: a note: 100%", "error: an error"]),
        (2, ["debug: a debug", "an info", "warning: a note: 100%", "error: an error"]),
        (9, ["debug: a debug", "an info", "warning: a note: 100%", "error: an error"]),
    ],
)
def test_verbosity(verbosity: int, expected: list[str]) -> None:
    assert logged("text", verbosity) == expected


def test_json_says_who_and_how_grave() -> None:
    first, *_ = map(json.loads, logged("json", 1))
    assert first == {"level": "info", "logger": "nixfetch.cache.test", "message": "an info"}


def test_internal_json_has_nixs_levels() -> None:
    lines = logged("internal-json", 2)
    assert all(line.startswith("@nix {") for line in lines)
    messages = [json.loads(line.removeprefix("@nix ")) for line in lines]
    assert [(each["action"], each["level"]) for each in messages] == [
        ("msg", 6),
        ("msg", 3),
        ("msg", 1),
        ("msg", 0),
    ]
    assert logs.line("internal-json", 15, "odd").count('"level":6')
