"""The README tells the truth."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_python_example_runs_as_written(tmp_path: Path) -> None:
    [code] = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    code = code.replace("/tmp/nixfetch-example", str(tmp_path / "store"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("11 paths, the last one at")
    assert Path(done.stdout.split()[-1]).is_dir()


def test_every_verb_is_named() -> None:
    from nixfetch.cli.app import VERBS

    for verb in VERBS:
        assert f"`{verb}" in README or f"`nixfetch {verb}" in README, verb


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="argparse lays help out anew in 3.13")
def test_the_reference_of_the_command_line_is_current() -> None:
    from scripts.make_cli_docs import TARGET, text

    assert TARGET.read_text() == text(), "run `make docs`"
