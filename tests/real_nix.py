"""Real Nix, to be asked by tests: the one of this machine, and the one of another system.

The other system is named by the environment: NIXFETCH_TEST_CHROOT is the root of one with a Nix
in its PATH; entering it takes root. Nix settings of this machine and of the user do not count.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CHROOT = "NIXFETCH_TEST_CHROOT"
SYSTEMS = ("host", "chroot")
"""What `real_nix` takes; parameters for a fixture."""
SETTINGS = {
    "build-users-group": "",
    "experimental-features": "nix-command",
    "sandbox": "false",
    "substitute": "false",
    "substituters": "",
}
_NOTHING: Mapping[str, str] = MappingProxyType({})
_TIMEOUT = 120  # seconds for one call


@dataclass(frozen=True, slots=True)
class RealNix:
    """A real Nix, and a place that it sees."""

    root: Path
    """Of its system."""
    enter: tuple[str, ...]
    """What a command begins with."""
    place: Path
    """An empty directory below `root`; it goes away with the test."""

    def inside(self, path: Path) -> str:
        """What this Nix calls `path`, which is below `place`."""
        return f"/{path.relative_to(self.root)}"

    def run(
        self,
        *command: str | Path,
        stdin: bytes = b"",
        check: bool = True,
        settings: Mapping[str, str] = _NOTHING,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command of this system; paths are given as they are outside.

        Args:
            command: a program and its arguments.
            stdin: what it reads.
            check: whether the test fails when it does.
            settings: of Nix, above `SETTINGS`.
        """
        words = [self.inside(word) if isinstance(word, Path) else word for word in command]
        merged = SETTINGS | dict(settings)
        environment = {
            "HOME": self.inside(self.place),
            "LC_ALL": "C.UTF-8",
            "NIX_CONF_DIR": "/nonexistent",
            "NIX_CONFIG": "".join(f"{name} = {value}\n" for name, value in merged.items()),
            "PATH": os.environ["PATH"] if not self.enter else "/usr/bin:/bin:/usr/sbin:/sbin",
        }
        done = subprocess.run(
            [*self.enter, *words],
            input=stdin,
            env=environment,
            capture_output=True,
            check=False,
            timeout=_TIMEOUT,
        )
        if check and done.returncode:
            text = (done.stdout + done.stderr).decode(errors="replace")
            pytest.fail(f"{' '.join(words)}: {done.returncode}\n{text[-4000:]}")
        return done

    def lines(self, *command: str | Path) -> list[str]:
        """What a command prints."""
        return self.run(*command).stdout.decode().splitlines()

    def path_info(self, store: Path | str, *paths: str) -> dict[str, dict[str, Any]]:
        """`nix path-info --json` of some paths and all they refer to, by path.

        Both shapes come out as the newer one: hashes in SRI form, all fields there.
        """
        command = ["nix", "path-info", "--json", "-r", "--store", store, *paths]
        if self.version >= (2, 34):
            command += ["--json-format", "1"]
        found = json.loads(self.run(*command).stdout)
        if isinstance(found, list):
            found = {entry.pop("path"): entry for entry in found}
        missing: dict[str, Any] = {"deriver": None, "ca": None, "signatures": []}
        return {path: {**missing, **entry} for path, entry in found.items()}

    @property
    def version(self) -> tuple[int, int]:
        text = self.run("nix", "--version").stdout.decode().split()[-1]
        major, minor, *_ = text.split(".")
        return int(major), int(minor)


@contextmanager
def real_nix(system: str) -> Iterator[RealNix]:
    """One of `SYSTEMS`; where it is not to be had, the test is skipped."""
    if system == "host":
        if shutil.which("nix") is None:
            pytest.skip("there is no Nix here")
        root, enter = Path("/"), tuple[str, ...]()
    else:
        named = os.environ.get(CHROOT)
        if not named:
            pytest.skip(f"{CHROOT} does not name a system with a Nix")
        if os.geteuid() != 0:
            pytest.skip("only root can enter another system")
        root, enter = Path(named), ("chroot", named)
    with tempfile.TemporaryDirectory(dir=root / "tmp", ignore_cleanup_errors=True) as place:
        yield RealNix(root, enter, Path(place))
