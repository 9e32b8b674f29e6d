"""For all tests: how hard hypothesis tries, and a header that says what is enabled."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Generator

_EXCUSES = (
    "root may read everything",
    "root may write anywhere",
    "only an ordinary user",
    "this Nix is not strict yet",
    "this nix has no --json-format",
    "argparse lays help out anew",
    "no XFS here",
    "no systemd here",
    "no k3s binary here",
    "no kubectl here",
    "this kernel gives an ordinary user no namespace",
    "full asks for it",
)
"""What a reason may say in spite of NIXFETCH_TEST_STRICT."""

# A shell has its background jobs ignore Ctrl-C, nohup the end of a terminal, and all that they
# start inherits it. Tests send these signals, and wait for what comes of them.
for _number, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

settings.register_profile(
    "deterministic",  # the default, and what CI runs: the same examples each time
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "deep",  # --hypothesis-profile deep: new examples each time, and many
    deadline=None,
    max_examples=5000,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("deterministic")


def pytest_report_header() -> str:
    """One line: what the tests that skip themselves will find here."""
    enabled = {
        "nix": _nix(),
        "chroot with nix": os.environ.get("NIXFETCH_TEST_CHROOT") or "no (NIXFETCH_TEST_CHROOT)",
        "root": "yes" if os.geteuid() == 0 else "no",
        "test data": os.environ.get("NIXFETCH_TEST_DATA") or "no (NIXFETCH_TEST_DATA)",
    }
    return "enabled: " + ", ".join(f"{name}: {state}" for name, state in enabled.items())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where all peers were installed (NIXFETCH_TEST_STRICT), a test that skips fails.

    But for those that only an ordinary user can run, or another Nix.
    """
    report = yield
    if (
        report.skipped
        and os.environ.get("NIXFETCH_TEST_STRICT")
        and not hasattr(report, "wasxfail")
    ):
        reason = str(report.longrepr[-1]) if isinstance(report.longrepr, tuple) else ""
        if not any(excuse in reason for excuse in _EXCUSES):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} skipped, and everything is installed: {reason}"
    return report


def _nix() -> str:
    if shutil.which("nix") is None:
        return "no"
    command = ["nix", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.split()[-1] if done.returncode == 0 and done.stdout else "broken"
