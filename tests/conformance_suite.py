"""Containerd's own conformance suite of snapshotters, and its filters, built where Go is.

The chroot that NIXFETCH_TEST_CHROOT names has it, and their source; what is built runs here, and
is kept there for as long as neither our drivers nor their source change.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

CHROOT = "NIXFETCH_TEST_CHROOT"
DRIVER = Path(__file__).parent / "conformance" / "src"
PACKAGES = ("golang-go", "golang-github-containerd-containerd-dev")
CASES = 21
BUILD = 900.0  # seconds; 70 on two quiet cores
PATIENCE = 300.0  # seconds for one run; 10 on a quiet machine

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_PLACE = "var/cache/nixfetch-conformance"  # below the root of the chroot
_RESULT = re.compile(r"^\s*--- (PASS|FAIL|SKIP): TestSuite/(\w+)", re.MULTILINE)


def build(package: str = "nixsuite") -> Path:
    """One of our drivers; the test is skipped where it cannot be built.

    Args:
        package: below tests/conformance/src.
    """
    system = os.environ.get(CHROOT)
    if not system:
        pytest.skip(f"{CHROOT} does not name a system with Go")
    if os.geteuid() != 0:
        pytest.skip("the suite mounts, as root")
    root = Path(system)
    versions = subprocess.run(
        ["chroot", system, "dpkg-query", "--show", *PACKAGES],
        env={"PATH": _PATH},
        capture_output=True,
        text=True,
        check=False,
    )
    if versions.returncode != 0 or not (root / "usr/bin/go").exists():
        pytest.skip(f"no {' and '.join(PACKAGES)} there")
    sources = sorted(DRIVER.rglob("*.go"))
    text = versions.stdout.encode() + b"".join(source.read_bytes() for source in sources)
    name = f"{package}-{hashlib.sha256(text).hexdigest()[:16]}"
    place = root / _PLACE
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / name).exists():
            _compile(system, place, package, name)
    return place / name


def _compile(system: str, place: Path, package: str, name: str) -> None:
    shutil.rmtree(place / "src", ignore_errors=True)
    shutil.copytree(DRIVER, place / "src")
    settings = {
        "CGO_ENABLED": "0",  # static: it runs on any system
        "GO111MODULE": "off",
        "GOCACHE": f"/{_PLACE}/cache",
        "GOPATH": f"/{_PLACE}:/usr/share/gocode",
        "HOME": f"/{_PLACE}",
        "PATH": _PATH,
    }
    how = ["test", "-c"] if list(DRIVER.glob(f"{package}/*_test.go")) else ["build"]
    done = subprocess.run(
        ["chroot", system, "go", *how, "-o", f"/{_PLACE}/{name}.new", package],
        env=settings,
        capture_output=True,
        text=True,
        timeout=BUILD,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (place / f"{name}.new").rename(place / name)


def passed(
    program: Path, folder: Path, settings: Mapping[str, str], *, parallel: int = 4
) -> set[str]:
    """The cases that passed; the test fails when others did not.

    Args:
        program: as `build` gives it.
        folder: for what it writes.
        settings: which snapshotter, see tests/conformance/README.md.
        parallel: cases at a time.
    """
    flags = ["-test.v", "-test.run", "TestSuite", "-test.root", f"-test.parallel={parallel}"]
    done = subprocess.run(
        # What it mounts, and what a daemon that it starts mounts, is for itself.
        ["unshare", "--mount", "--propagation", "private", program, *flags],
        env={
            "PATH": f"{os.environ['PATH']}:{_PATH}",
            "HOME": str(folder),
            "TMPDIR": str(folder),
            **settings,
        },
        capture_output=True,
        text=True,
        errors="replace",
        timeout=PATIENCE,
        check=False,
    )
    results = {name: result for result, name in _RESULT.findall(done.stdout)}
    # It skips itself and exits with 0 when it has not what it needs: only its lines count.
    bad = {name for name, result in results.items() if result != "PASS"}
    assert not bad, f"{sorted(bad)}\n{done.stdout[-20_000:]}\n{done.stderr[-10_000:]}"
    return set(results)
