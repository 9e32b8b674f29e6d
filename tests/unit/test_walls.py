"""Each wall of the architecture is seen to fail when it is broken; whole, all of them hold."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lint(source: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            Path(sys.executable).with_name("lint-imports"),
            "--no-cache",
            "--config",
            ROOT / "pyproject.toml",
        ],
        env={**os.environ, "PYTHONPATH": str(source), "NO_COLOR": "1", "COLUMNS": "200"},
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "src", tmp_path / "src"))


def test_all_walls_stand(source: Path) -> None:
    outcome = lint(source)
    assert outcome.returncode == 0, outcome.stdout
    assert "BROKEN" not in outcome.stdout


@pytest.mark.parametrize(
    ("module", "line", "wall"),
    [
        ("nixfetch/cache/client.py", "import nixfetch.fetch.closure", "layers"),
        ("nixfetch/store/local.py", "import nixfetch.transport.file", "layers"),
        ("nixfetch/formats/base32.py", "import nixfetch.streams.limits", "layers"),
        ("nixfetch/formats/narinfo.py", "import os", "sans-io"),
        ("nixfetch/plan/retry.py", "import random", "sans-io"),
        ("nixfetch/streams/limits.py", "import logging", "sans-io"),
        (
            "nixfetch/transport/http.py",
            "import nixfetch.formats.storepath",
            "transports know no Nix",
        ),
        ("nixfetch/cache/client.py", "import httpx", "one door to HTTP"),
        ("nixfetch/config/load.py", "import boto3", "one door to S3"),
        ("nixfetch/fetch/closure.py", "import snapshotter", "library first"),
        ("nixfetch/formats/storepath.py", "import nixfetch.formats.narinfo", "no cycles"),
        ("snapshotter/metastore.py", "import snapshotter.core", "snapshotter layers"),
        ("snapshotter/labels.py", "import os", "snapshotter sans-io"),
        ("snapshotter/core.py", "import nixfetch.store.local", "front door"),
        ("snapshotter/core.py", "import snapshotter._pb.types_pb2", "generated code"),
    ],
)
def test_a_broken_wall_is_seen(source: Path, module: str, line: str, wall: str) -> None:
    file = source / module
    text = file.read_text()
    future = "from __future__ import annotations\n"
    assert future in text
    file.write_text(text.replace(future, f"{future}{line}\n", 1))
    outcome = lint(source)
    assert outcome.returncode != 0
    broken = [row for row in outcome.stdout.splitlines() if " BROKEN" in row]
    assert any(row.startswith(wall) for row in broken), outcome.stdout


@pytest.mark.parametrize("package", ["nixfetch", "snapshotter"])
def test_a_room_without_a_floor_is_seen(source: Path, package: str) -> None:
    (source / f"{package}/attic.py").write_text('"""A room that nobody planned."""\n')
    assert lint(source).returncode != 0
