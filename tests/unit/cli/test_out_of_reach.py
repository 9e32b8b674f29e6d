"""A store below a directory that may not be searched: every verb says so, and what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from unit.cli.conftest import Run

PATIENCE = 60.0  # seconds
NO_PRIVILEGES = ["--bounding-set", "-dac_override,-dac_read_search"]
VERBS = [
    ["fetch", "PATH"],
    ["fetch", "--dry-run", "PATH"],
    ["path-info", "--local", "PATH"],
    ["verify", "--all"],
    ["verify", "--all", "--repair"],
    ["verify", "--rebuild-db"],
    ["roots", "list"],
    ["roots", "add", "name", "PATH"],
    ["gc"],
    ["gc", "--dry-run"],
]


@pytest.fixture(params=["a store", "none yet"])
def hidden(
    request: pytest.FixtureRequest,
    run: Run,
    closure: dict[str, Any],
    source: list[str],
    tmp_path: Path,
) -> Iterator[Path]:
    """A store, or the place of one, below a directory that its owner may not search either."""
    closed = tmp_path / "closed"
    store = closed / "in/store"
    store.parent.mkdir(parents=True)
    if request.param == "a store":
        assert run("fetch", closure["roles"]["static"], *source, "--store", store).code == 0
    closed.chmod(0)
    yield store
    closed.chmod(0o755)


@pytest.fixture
def command() -> list[str]:
    """`nixfetch` in a process that modes of files count for."""
    plain = [sys.executable, "-m", "nixfetch.cli"]
    if os.geteuid() != 0:
        return plain
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv")
    return ["setpriv", *NO_PRIVILEGES, *plain]


def ran(command: list[str]) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "XDG_CONFIG_DIRS": "/nowhere"}
    if "PYTHONPATH" in os.environ:
        environ["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_is_told(
    verb: list[str], hidden: Path, command: list[str], closure: dict[str, Any], source: list[str]
) -> None:
    words = [closure["roles"]["static"] if word == "PATH" else word for word in verb]
    done = ran([*command, *words, *source, "--store", str(hidden)])
    assert done.returncode == 6, done.stderr
    closed = hidden.parents[1]
    assert done.stderr.startswith(f"error: permission denied: {hidden}/nix/")
    assert f"  directory: {closed}\n" in done.stderr
    assert f"hint: {closed} may not be searched: have it opened" in done.stderr
    assert done.stdout == ""


def test_by_the_doctor(hidden: Path, command: list[str], source: list[str]) -> None:
    done = ran([*command, "doctor", *source, "--store", str(hidden)])
    assert done.returncode == 6, done.stderr
    closed = hidden.parents[1]
    assert f"{hidden}: out of reach, we may not search {closed}\n" in done.stdout
    assert "permission denied" in done.stdout  # of the database
    assert done.stderr == ""
