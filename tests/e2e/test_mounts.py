"""`nixfetch mounts`, read by those who mount: bubblewrap, mount, runc, systemd.

The store lies where no reader could do without our escapes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from e2e.conftest import PATH, PATIENCE, Command
from worlds import MACHINES, lacking

if TYPE_CHECKING:
    from e2e.conftest import Demo

pytestmark = pytest.mark.e2e

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
AWKWARD = 'a store\'s \\040 #1 of 100%h "$HOME"'


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of one command."""

    code: int
    out: str
    err: str


def ran(command: list[str], *, stdin: str = "", cwd: Path | None = None) -> Ran:
    done = subprocess.run(
        command,
        input=stdin,
        env={"PATH": PATH},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def fetched(tmp_path: Path, demo: Demo) -> Command:
    """A store with the closure of the demo."""
    command = Command(tmp_path / AWKWARD, tmp_path)
    source = demo.cache("cache-zstd").as_uri()
    fetching = command.fetch(demo.root, source=source, key=demo.key)
    assert fetching.code == 0, fetching.err
    return command


def spec(fetched: Command, demo: Demo, name: str) -> str:
    told = fetched("mounts", demo.root, "--format", name)
    assert (told.code, told.err) == (0, "")
    return told.out


def need(program: str) -> None:
    if shutil.which(program, path=PATH) is None:
        pytest.skip(f"no {program} in PATH")


def test_bubblewrap_runs_the_programs(fetched: Command, demo: Demo, tmp_path: Path) -> None:
    """They see the closure and nothing else at all."""
    need("bwrap")
    (tmp_path / "arguments").write_bytes(spec(fetched, demo, "bwrap").encode())
    for role, program in demo.programs.items():
        with (tmp_path / "arguments").open("rb") as file:
            done = subprocess.run(
                ["bwrap", "--args", str(file.fileno()), "--", program, "you"],
                pass_fds=[file.fileno()],
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        if "No permissions to create new namespace" in done.stderr:
            pytest.skip("this kernel gives an ordinary user no namespace")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == demo.output[role]


CHECK = r"""
for path in "$@"; do
  [ -e "$path" ] || echo "missing: $path"
  [ -d "$path" ] && place=$path/new || place=$path
  (: >"$place") 2>/dev/null && echo "writable: $path"
done
:
"""


@needs_root
@pytest.mark.skipif(bool(lacking()), reason=f"needs {lacking()}")
def test_mount_takes_the_fstab(fetched: Command, demo: Demo, tmp_path: Path) -> None:
    lines = spec(fetched, demo, "fstab")
    (tmp_path / "fstab").write_text(lines)
    script = rf"""
    sed -n 's/^# a file; before: //p' fstab | sh -eu
    mount -a -T fstab
    {demo.programs["dynamic"]} you
    sh -c "$0" sh "$@"
    ls -A /nix/store | wc -l
    """
    command = [*MACHINES["with a /nix"], "sh", "-euc", script, CHECK, *demo.closure]
    done = ran(command, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert done.out == demo.output["dynamic"] + f"{len(demo.closure)}\n"


@needs_root
def test_runc_takes_the_mounts(fetched: Command, demo: Demo, tmp_path: Path) -> None:
    need("runc")
    (tmp_path / "rootfs").mkdir()
    runc = ["runc", "--root", str(tmp_path / "state")]
    assert ran([*runc, "spec", "--bundle", str(tmp_path)]).code == 0
    file = tmp_path / "config.json"
    for role, program in demo.programs.items():
        config = json.loads(file.read_text())
        config["mounts"] = [
            mount for mount in config["mounts"] if not mount["destination"].startswith("/nix")
        ]
        config["mounts"] += json.loads(spec(fetched, demo, "oci"))
        config["process"] |= {"terminal": False, "args": [program, "you"]}
        file.write_text(json.dumps(config))
        name = f"nixfetch-test-{os.getpid()}-{role}"
        done = ran([*runc, "run", "--bundle", str(tmp_path), name])
        assert (done.code, done.err) == (0, "")
        assert done.out == demo.output[role]
    placed = {entry.name for entry in (tmp_path / "rootfs/nix/store").iterdir()}
    assert placed == {Path(path).name for path in demo.closure}


def test_systemd_takes_the_units(fetched: Command, demo: Demo, tmp_path: Path) -> None:
    units = tmp_path / "units"
    units.mkdir()
    text = spec(fetched, demo, "systemd").replace("# /etc/systemd/system/", f"# {units}/")
    # As the guide has it.
    split = ["awk", r"/^# \//{if(out)close(out);out=$2}{print>out}"]
    assert ran(split, stdin=text) == Ran(0, "", "")
    files = sorted(units.iterdir())
    assert len(files) == len(demo.closure)
    whats = [re.search(r"^What=(.*)$", file.read_text(), re.MULTILINE) for file in files]
    assert {match[1].replace("%%", "%") for match in whats if match} == {
        f"{fetched.store}{path}" for path in demo.closure
    }
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd here")
    done = ran(["systemd-analyze", "verify", "--man=no", *map(str, files)])
    complaints = [line for line in done.err.splitlines() if "nix-store" in line]
    assert complaints == []
