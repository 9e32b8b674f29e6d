from __future__ import annotations

import errno
import io
import json
import os
import signal
import threading
import time
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from nixfetch.cli import app
from nixfetch.cli.output import Output
from nixfetch.formats.storepath import StorePath

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from pathlib import Path

    from unit.cli.conftest import Run

SAY = "say"


class Full(io.BytesIO):
    """A stdout on a full disk: found out when the buffer is flushed."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


class Closed(io.BytesIO):
    """A stdout whose reader went away."""

    def write(self, _data: Any) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def say(
    run: Callable[..., int],
    *flags: str,
    out: io.BytesIO | None = None,
    add_arguments: Callable[[Any], object] = lambda _: None,
) -> tuple[int, str]:
    """Run a verb that does what `run` does; exit code and stderr."""
    module = ModuleType(SAY)
    vars(module).update(SUMMARY="says", add_arguments=add_arguments, run=run)
    err = io.BytesIO()
    code = app.run(
        [SAY, *flags],
        output=Output(out or io.BytesIO(), err),
        environ={"HOME": "/nowhere", "XDG_CONFIG_DIRS": "/nowhere"},
        verbs={SAY: SAY},
        load=lambda _: module,
    )
    return code, err.getvalue().decode()


def test_help_and_version_are_answers(run: Run) -> None:
    for words in (["--help"], ["fetch", "--help"], ["--version"]):
        ran = run(*words)
        assert ran.code == 0
        assert "nixfetch" in ran.out
        assert ran.err == ""


def test_usage_errors_go_to_stderr(run: Run) -> None:
    ran = run("ftch")
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err == "error: no such verb: ftch\nhint: did you mean `fetch`?\n"


def test_the_code_of_a_verb_is_the_code_of_the_command() -> None:
    assert say(lambda *_: 3) == (3, "")


def test_a_bug_is_one_line_and_code_1() -> None:
    def bug(*_: object) -> int:
        raise ValueError("oh\nno")

    code, err = say(bug)
    assert code == 1
    assert err.startswith("error: internal error: ValueError: oh\\nno\nhint: ")
    assert "Traceback" not in err
    assert "Traceback" not in say(bug, "-v")[1]
    code, err = say(bug, "-vv")
    assert code == 1
    assert err.startswith("Traceback")
    assert "\nerror: internal error: ValueError" in err


def test_errors_take_the_form_of_the_logs(run: Run, closure: dict[str, Any]) -> None:
    words = ["fetch", "--from", "/nowhere", "--store", "/proc/no", closure["root"]]
    assert json.loads(run(*words, "--log-format", "json").err.splitlines()[-1])["exit_code"] == 6
    environ = {"NIXFETCH_LOG_FORMAT": "internal-json"}
    assert run(*words, environ=environ).err.startswith('@nix {"action":"msg"')


def test_a_reader_that_goes_away_is_no_failure() -> None:
    def talk(_: object, context: Any) -> int:
        context.output.line("x")
        raise AssertionError("not reached")

    assert say(talk, out=Closed()) == (0, "")
    assert say(talk, "--help", out=Closed()) == (0, "")


def test_a_full_disk_behind_stdout_is_noticed_at_the_end() -> None:
    code, err = say(lambda *_: 0, out=Full())
    assert code == 6
    assert "cannot write to stdout" in err


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_interrupted(number: signal.Signals, code: int) -> None:
    undone = threading.Event()

    def wait(*_: object) -> int:
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            undone.set()
        return 0

    assert say(wait)[0] == code
    assert undone.is_set()


def test_an_interruption_says_what_is_left() -> None:
    def stop(*_: object) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    assert say(stop)[1].startswith("error: interrupted by SIGTERM\nhint: run it again")


def test_a_malformed_flag_is_usage_and_a_malformed_file_is_configuration(
    run: Run, tmp_path: Path
) -> None:
    ran = run("config", "show", "--jobs", "0")
    assert (ran.code, ran.err.splitlines()[0]) == (2, "error: unusable value: flag --jobs")
    assert run("config", "show", environ={"NIXFETCH_JOBS": "0"}).code == 78
    file = tmp_path / "c.toml"
    file.write_text("jbs = 1\n")
    ran = run("config", "show", "--config", file)
    assert ran.code == 78
    assert "jobs" in ran.err
    assert run("config", "show", "--config", tmp_path / "none").code == 78


@pytest.mark.parametrize(
    "words",
    [
        ["--store", ""],
        ["--sigs-needed", "0"],
        ["--jobs", "x"],
        ["--from", "gopher://x"],
        ["--trusted-key", "foo"],
        ["--trusted-key", "foo:" + "A" * 86 + "=="],
        ["--config", ""],
    ],
)
def test_unusable_flags(run: Run, words: list[str]) -> None:
    ran = run("config", "show", *words)
    if words != ["--config", ""]:  # as if it were not given
        assert ran.code == 2
        assert ran.err.startswith("error: ")
        assert words[0] in ran.err
    assert "AAAA" not in ran.err


def test_a_verbs_own_parser_of_a_value_is_usage() -> None:
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("path", type=StorePath.parse)

    code, err = say(lambda *_: 0, "nonsense", add_arguments=add_arguments)
    assert code == 2
    assert err.startswith("error: store path has no 32-digit hash part\n")
