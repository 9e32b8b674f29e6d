"""Containerd's own conformance suite: our daemon alone, behind both containerds, and controls."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import conformance_suite
from conformance_suite import CASES, passed
from containerd_host import VERSIONS, Version
from containers import NAME, machine
from simulated_cache import SimulatedCache

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def suite() -> Path:
    return conformance_suite.build()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: paths of sockets are below it. Not that of pytest, which may lie on an overlay."""
    with tempfile.TemporaryDirectory(prefix="nfc-", dir="/tmp") as name:
        yield Path(name)


def test_our_daemon_alone(suite: Path, folder: Path) -> None:
    serve = (
        f"{sys.executable} -m snapshotter.cli serve --root {{root}} --address {{sock}}"
        " --store {root}-store --containerd-address="
    )
    found = passed(suite, folder, {"SUITE_EXEC": serve, "SUITE_NAME": "overlayfs"})
    assert len(found) == CASES


@pytest.mark.parametrize("version", VERSIONS)
def test_behind_containerd_and_beside_its_own(version: Version, suite: Path) -> None:
    with machine(version, SimulatedCache()) as here:
        mounts, snapshots = here.host.mounts(), here.host.snapshots(NAME)
        folder = here.host.folder / "tmp"
        socket = {"SUITE_SOCK": str(here.host.socket)}
        control = passed(suite, folder, {**socket, "SUITE_NAME": "overlayfs"})
        ours = passed(suite, folder, {**socket, "SUITE_NAME": NAME, "SUITE_PROFILE": "overlayfs"})
        assert len(control) == CASES
        assert ours == control
        assert here.host.mounts() == mounts
        assert here.host.snapshots(NAME) == snapshots
