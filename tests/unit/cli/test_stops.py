from __future__ import annotations

import os
import signal

import pytest

from nixfetch.cli.stops import Stopped, raising_stopped


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_is_an_exception_and_the_next_one_ends_the_process(
    number: signal.Signals, exit_code: int
) -> None:
    with pytest.raises(Stopped) as caught, raising_stopped():
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == exit_code
    assert caught.value.name == number.name
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        assert signal.getsignal(each) is signal.SIG_DFL


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
