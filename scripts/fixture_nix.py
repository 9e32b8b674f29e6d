"""Runs real Nix for the fixtures and reads what it wrote.

Knows how to start Nix; knows nothing of what the fixtures are.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

OLDEST_NIX = (2, 34)  # 2.8 writes other listings; all else is equal

# In a mount namespace of its own: what is mounted here is seen by the command only.
ENTER = """
root=$1 system=${2%/} work=$3; shift 3
for name in bin sbin lib lib64 usr etc; do
  if [ -L "$system/$name" ]; then
    cp --no-dereference --force "$system/$name" "$root/"
  elif [ -d "$system/$name" ]; then
    mkdir -p "$root/$name"; mount --rbind "$system/$name" "$root/$name"
  fi
done
for name in dev proc; do mkdir -p "$root/$name"; mount --rbind "/$name" "$root/$name"; done
mount --bind "$work" "$root/build"
exec chroot "$root" "$@"
"""


@dataclass(frozen=True, slots=True)
class Nix:
    """A real Nix: how to start it, and where it sees the work directory."""

    start: tuple[str, ...]
    work: str

    def run(self, *command: str) -> str:
        environment = {
            "HOME": f"{self.work}/home",
            "LC_ALL": "C.UTF-8",
            "NIX_CONFIG": "build-users-group =\nsandbox = false\nsubstitute = false\n"
            "experimental-features = nix-command ca-derivations",
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
        }
        done = subprocess.run(
            [*self.start, *command], env=environment, check=False, capture_output=True, text=True
        )
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}failed: {done.returncode}")
        return done.stdout.strip()


def installed_nix(system: Path, work: Path) -> Nix:
    """The Nix installed under `system`, in a root of its own below the work directory."""
    root = work / "root"
    for name in ("nix", "tmp", "build"):
        (root / name).mkdir(parents=True)
    start = ("unshare", "--mount", "sh", "-euc", ENTER, "-", str(root), str(system), str(work))
    return Nix(start, "/build")


def check_version(nix: Nix) -> None:
    """Exits unless this Nix writes what the fixtures are made of."""
    version = nix.run("nix", "--version")
    found = re.search(r"(\d+)\.(\d+)", version)
    if not found or (int(found[1]), int(found[2])) < OLDEST_NIX:
        sys.exit(f"make-fixtures: {version} is too old: name a system with Nix 2.34 by --sid")


@dataclass(frozen=True, slots=True)
class Claim:
    """A narinfo, as far as the fixtures need it."""

    path: str
    references: tuple[str, ...]
    signed_by: tuple[str, ...]
    text: str

    @property
    def name(self) -> str:
        return self.path.removeprefix("/nix/store/")[33:]

    def field(self, name: str) -> str:
        found = re.search(rf"^{name}: (.*)$", self.text, re.MULTILINE)
        return found[1] if found else ""


def claim(text: str) -> Claim:
    """Reads a narinfo that real Nix wrote."""
    fields = [line.split(": ", 1) for line in text.splitlines()]
    values = {name: value for name, value in fields if name != "Sig"}
    return Claim(
        path=values["StorePath"],
        references=tuple(f"/nix/store/{base}" for base in values["References"].split()),
        signed_by=tuple(value.split(":")[0] for name, value in fields if name == "Sig"),
        text=text,
    )


def claims(cache: Path) -> list[Claim]:
    """All narinfos of a cache, references first, otherwise by path."""
    found = {c.path: c for c in (claim(f.read_text()) for f in sorted(cache.glob("*.narinfo")))}
    graph = {path: sorted(set(c.references) - {path}) for path, c in sorted(found.items())}
    return [found[path] for path in TopologicalSorter(graph).static_order()]
