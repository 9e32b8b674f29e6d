from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING

import pytest

from nixfetch.cli.output import Output, OutputClosed, OutputError, printable, shown

if TYPE_CHECKING:
    from pathlib import Path

SECRET_KEY = "name-1:" + "A" * 86 + "=="
PUBLIC_KEY = "fixture-1:+nNuwhQNJRQck6VMRVIvF1txkx1bhUap9tL7fEBx5MM="


class Refusing(io.BytesIO):
    """A stream whose every write fails."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def write(self, _data: object) -> int:
        raise OSError(self._number, os.strerror(self._number))

    def flush(self) -> None:
        raise OSError(self._number, os.strerror(self._number))


def output() -> tuple[Output, io.BytesIO, io.BytesIO]:
    out, err = io.BytesIO(), io.BytesIO()
    return Output(out, err), out, err


def test_data_is_written_as_it_is() -> None:
    both, out, err = output()
    both.data(b"\x00\xff")
    both.data("é\udcff")
    both.line("x")
    both.flush()
    assert out.getvalue() == b"\x00\xff" + "é".encode() + b"\xff" + b"x\n"
    assert err.getvalue() == b""


def test_a_closed_stdout_takes_everything() -> None:
    both = Output(None, None)
    both.line("x")
    both.flush()
    both.error("x")
    both.bar("x")
    assert both.width() == 80
    assert not both.on_terminal()


@pytest.mark.parametrize("step", ["data", "flush"])
def test_a_reader_that_went_away_ends_the_run_once(step: str) -> None:
    both = Output(Refusing(errno.EPIPE), None)
    with pytest.raises(OutputClosed):
        both.data("x") if step == "data" else both.flush()
    both.data("nobody reads it")
    both.flush()


def test_a_full_disk_behind_stdout_is_an_error_of_this_machine() -> None:
    with pytest.raises(OutputError) as caught:
        Output(Refusing(errno.ENOSPC), None).data("x")
    assert caught.value.exit_code == 6
    assert caught.value.facts == {"reason": "No space left on device"}


def test_a_broken_pipe_is_not_flushed_again_when_the_stream_is_closed() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as stream:  # noqa: PTH123 - a descriptor
        both = Output(stream, None)
        both.line("x")
        with pytest.raises(OutputClosed):
            both.flush()


def test_a_broken_stderr_is_forgotten() -> None:
    both = Output(None, Refusing(errno.EPIPE))
    both.error("x")
    assert both.err is None
    both.error("x")


def test_the_streams_of_the_process(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    both = Output.of_process()
    both.line("out")
    both.error("err")
    both.flush()
    assert capsysbinary.readouterr() == (b"out\n", b"err\n")


def test_a_process_without_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    # What Python makes of `>&- 2>&-`.
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    both = Output.of_process()
    assert both.out is None
    assert both.err is None


def test_a_stream_that_does_not_block_is_made_to(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = sys.stdout
    with open(reader, "rb"), open(writer, "w", encoding="utf-8") as stream:  # noqa: PTH123 - descriptors
        try:
            sys.stdout = stream
            Output.of_process()
        finally:
            sys.stdout = before
        assert os.get_blocking(writer)


def test_the_bar_stands_below_every_line() -> None:
    both, out, err = output()
    both.bar("half")
    both.error("a line")
    both.bar("more")
    both.bar("")
    both.bar("")
    both.line("data")
    erase = b"\r\x1b[J"
    assert err.getvalue() == (b"half" + erase + b"a line\nhalf" + erase + b"more" + erase)
    assert out.getvalue() == b"data\n"


def test_data_takes_the_bar_away() -> None:
    both, _, err = output()
    both.bar("half")
    both.line("data")
    assert err.getvalue() == b"half\r\x1b[J"


def test_a_bar_that_a_narrower_terminal_wrapped_goes_as_a_whole() -> None:
    both, _, err = output()
    both.bar("x" * 200)  # three rows of 80
    both.bar("")
    assert err.getvalue().endswith(b"\x1b[2A\r\x1b[J")


@pytest.mark.parametrize(
    ("text", "shown_as"),
    [
        ("plain\nlines", "plain\nlines"),
        ("\x1b[31mred\r", "\\x1b[31mred\\x0d"),
        ("é\x85\u202e\udcff", "é\\x85\\u202e\\xff"),
    ],
)
def test_nothing_steers_the_terminal(text: str, shown_as: str) -> None:
    assert printable(text) == shown_as


@pytest.mark.parametrize(
    ("text", "shown_as"),
    [
        ("at https://user:pa%20ss@host/x", "at https://host/x"),
        ("https://host/a@b", "https://host/a@b"),
        ("u?X-Amz-Signature=abc&x=1&token=t", "u?X-Amz-Signature=REDACTED&x=1&token=REDACTED"),
        (f"key {SECRET_KEY}", "key name-1:REDACTED"),
        (f"key {PUBLIC_KEY}", f"key {PUBLIC_KEY}"),
    ],
)
def test_secrets_are_blotted_out(text: str, shown_as: str) -> None:
    both, _, err = output()
    both.error(text)
    assert err.getvalue().decode() == shown_as + "\n"
    assert shown(text) == shown_as


def test_a_command_that_goes_on_does_not_care_who_reads() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb", buffering=0) as stream:
        output = Output(stream, None)
        output.goes_on = True
        output.line("a verdict")
        output.line("another")
        assert output.out is None
