"""For all tests: how hard hypothesis tries, and a header that says what is enabled."""

from __future__ import annotations

import os
import shutil
import subprocess

from hypothesis import HealthCheck, settings

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


def _nix() -> str:
    if shutil.which("nix") is None:
        return "no"
    command = ["nix", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.split()[-1] if done.returncode == 0 and done.stdout else "broken"
