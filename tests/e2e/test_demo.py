"""`make demo`, as a user starts it: as root, and as somebody whom nobody knows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

PROJECT = Path(__file__).parents[2]
SECONDS = 20
BECOME = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]  # no passwd entry


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user may enter and write to."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o777)
        (place / "tools").mkdir()
        yield place


def demo(
    place: Path, *before: str, python: str = sys.executable, nixfetch: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the demo.

    Args:
        place: for its files; it must leave none.
        before: a command that runs the demo.
        python: what `python3` and `nixfetch` are in PATH.
        nixfetch: what the latter does first, in the shell's language.
    """
    _script(place / "tools/python3", f'exec {python} "$@"')
    _script(place / "tools/nixfetch", f'{nixfetch}\nexec {python} -m nixfetch.cli "$@"')
    begin = time.monotonic()
    done = _run(place, *before, str(PROJECT / "scripts/demo"))
    assert time.monotonic() - begin < SECONDS
    assert [entry.name for entry in place.iterdir()] == ["tools"]
    return done


def test_every_step_does_what_it_should(place: Path) -> None:
    done = demo(place)
    assert done.returncode == 0, done.stdout + done.stderr
    for step in (
        "$ nixfetch fetch -v ",
        "signed by fixture-1",
        "$ nixfetch verify --all",
        "greet: hello, you!",
        "error: archive has the wrong hash: ",
        "error: signature is wrong: ",
        "All of it did what it should.",
    ):
        assert step in done.stdout
    assert done.stdout.count("$ echo $?\n4\n") == 2
    assert "Traceback" not in done.stdout + done.stderr


def test_an_ordinary_user_without_home_and_passwd_entry(place: Path) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv to become somebody else")
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    before = [*BECOME, "env", "-u", "HOME", f"PYTHONPATH={PROJECT}/src:{packages}"]
    test = ["-c", "import zstandard, httpx, cryptography.exceptions, nixfetch"]
    pythons = [sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"]
    fits = [python for python in pythons if _run(place, *before, python, *test).returncode == 0]
    if not fits:
        pytest.skip("no Python with the packages that every user may run")
    done = demo(place, *before, python=fits[0])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "greet: hello, you!" in done.stdout or "no namespace" in done.stdout


def test_a_step_that_goes_wrong_fails_the_demo(place: Path) -> None:
    done = demo(place, nixfetch='[ "$1" = verify ] && exit 1')
    assert done.returncode == 1
    assert done.stderr.endswith("demo: expected: exit code 0, not 1\n")


def test_without_the_command_it_says_so(place: Path) -> None:
    _script(place / "tools/python3", f'exec {sys.executable} "$@"')
    done = _run(place, "env", f"PATH={place}/tools:/usr/bin:/bin", str(PROJECT / "scripts/demo"))
    assert done.returncode == 1
    assert "`make demo` sees to that" in done.stderr


def _run(place: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = f"{place}/tools:{os.environ['PATH']}"
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=place,
        env={**os.environ, "PATH": path, "TMPDIR": str(place), "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=60,
        check=False,
    )


def _script(file: Path, body: str) -> None:
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
