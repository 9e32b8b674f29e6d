from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from nixfetch.cli.stops import Stopped, raising_stopped

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 60.0  # seconds
TWICE = """
import os, signal, sys
from nixfetch.cli.stops import Stopped, raising_stopped

moments = iter(map(float, sys.argv[1:]))
try:
    with raising_stopped(now=lambda: next(moments)):
        os.kill(os.getpid(), signal.SIGTERM)
except Stopped as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    print("all is undone")
    sys.exit(stop.exit_code)
"""
"""The first signal and two more, which come at the moments that it is given."""


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_is_an_exception(number: signal.Signals, exit_code: int) -> None:
    with pytest.raises(Stopped) as caught, raising_stopped():
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == exit_code
    assert caught.value.name == number.name


def test_another_signal_at_once_is_the_same_one() -> None:
    with pytest.raises(Stopped) as caught, raising_stopped(now=lambda: 7.0):
        os.kill(os.getpid(), signal.SIGTERM)
    for number in STOPPING:
        os.kill(os.getpid(), number)
    assert caught.value.number == signal.SIGTERM


@pytest.mark.parametrize(
    ("moments", "code", "out"),
    [
        (("0", "0.1", "0.5"), 143, "all is undone\n"),
        (("0", "0.1", "0.6"), -signal.SIGINT, ""),
        (("0", "9"), -signal.SIGTERM, ""),
    ],
)
def test_a_later_signal_ends_the_process_at_once(
    moments: tuple[str, ...], code: int, out: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWICE, *moments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, out), done.stderr


def test_what_was_ignored_stays_so() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    with raising_stopped():
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_after_a_quiet_run_all_is_as_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with raising_stopped():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
