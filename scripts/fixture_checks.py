"""Tries the fixtures: fetched by real Nix, verified, run.

Knows caches and paths.json; knows nothing of how they were made.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scripts.fixture_nix import Nix

# The closure alone at /nix/store, each path a bind mount.
BIND_CLOSURE = """
store=$1 count=$2; shift 2
mount -t tmpfs tmpfs /mnt; mkdir -p /mnt/nix/store
while [ "$count" -gt 0 ]; do
  if [ -d "$store/${1##*/}" ]; then mkdir "/mnt$1"; else : >"/mnt$1"; fi
  mount --bind "$store/${1##*/}" "/mnt$1"
  shift; count=$((count - 1))
done
exec chroot /mnt "$@"
"""


def check_cache(nix: Nix, work: Path, cache: Path, document: str) -> None:
    """Fetches a cache with signatures required, verifies the store, runs its programs."""
    known = json.loads(document)
    store = work / f"store-{nix.work.strip('/').replace('/', '-')}-{cache.name}"
    inside = f"{nix.work}/{store.name}"
    key = known["keys"]["fixture-1"]["public"]
    trust = ("--option", "trusted-public-keys", key, "--option", "require-sigs", "true")
    url = f"file://{nix.work}/{cache.name}"
    nix.run("nix", "copy", *trust, "--from", url, "--to", inside, known["root"])
    nix.run("nix-store", "--store", inside, "--verify", "--check-contents")
    closure = nix.run("nix-store", "--store", inside, "--query", "--requisites", known["root"])
    if sorted(closure.split()) != sorted(known["closure"]):
        sys.exit(f"{cache.name}: another closure: {closure}")
    for role, program in known["programs"].items():
        paths = known["closure"]
        bind = ["sh", "-euc", BIND_CLOSURE, "-", str(store / "nix/store"), str(len(paths)), *paths]
        for way in (["chroot", str(store)], ["unshare", "--map-root-user", "--mount", *bind]):
            done = subprocess.run(
                [*way, program, "you"], check=True, capture_output=True, text=True
            )
            if done.stdout != known["output"][role]:
                sys.exit(f"{program} said: {done.stdout}")
    print(f"{cache.name}: fetched, verified and run, {nix.run('nix', '--version')}")
    remove(store)


def remove(tree: Path) -> None:
    """Removes a tree with read-only directories, as a store has."""
    for directory, _, _ in os.walk(tree):
        Path(directory).chmod(0o755)
    shutil.rmtree(tree)
