"""Keys, signatures and damage: what we make, real Nix sees, and the other way round.

Asks the Nix in PATH and, where NIXFETCH_TEST_CHROOT names the root of another system with a Nix in
it (needs root), that one too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from command import nixfetch
from filled_store import Filled, damage, fill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    KeyMaker = Callable[["Nix"], tuple[Path, str]]

pytestmark = pytest.mark.differential

TIMEOUT = 60  # seconds for one command
CORRUPT, UNTRUSTED = 1, 2  # exit codes of `nix store verify`, to be added


@dataclass(frozen=True, slots=True)
class Nix:
    """A real Nix, and a directory that both it and we see."""

    root: Path
    command: list[str]
    place: Path

    def inside(self, path: Path) -> str:
        """`path` as this Nix sees it."""
        return str(Path("/", path.relative_to(self.root)))

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, "--extra-experimental-features", "nix-command", *words],
            input=stdin,
            env={
                "PATH": os.environ["PATH"],
                "HOME": self.inside(self.place),
                "NIX_CONFIG": "build-users-group =\nsubstituters =",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )

    def verify(self, filled: Filled, *words: str) -> int:
        store = self.inside(filled.root)
        return self.run("store", "verify", "--store", store, "--all", *words).returncode

    def signatures(self, filled: Filled) -> dict[str, set[str]]:
        done = self.run("path-info", "--store", self.inside(filled.root), "--all", "--sigs")
        assert done.returncode == 0, done.stderr
        lines = [line.split() for line in done.stdout.splitlines()]
        return {
            path: {text for text in rest if ":" in text and not text.startswith("ca:")}
            for path, *rest in lines
        }


@pytest.fixture(params=["path", "chroot"])
def nix(request: pytest.FixtureRequest) -> Iterator[Nix]:
    if request.param == "path":
        root, command = Path("/"), ["nix"]
        if not shutil.which("nix"):
            pytest.skip("no nix in PATH")
    else:
        named = os.environ.get("NIXFETCH_TEST_CHROOT")
        if not named or os.geteuid():
            pytest.skip("NIXFETCH_TEST_CHROOT is not set, or we are not root")
        root, command = Path(named), ["chroot", named, "nix"]
    with tempfile.TemporaryDirectory(dir=root / "tmp") as place:
        yield Nix(root, command, Path(place))


@pytest.fixture
def filled(nix: Nix) -> Filled:
    return fill(nix.place / "store")


def our_key(nix: Nix) -> tuple[Path, str]:
    """A file with a secret key of ours, and its public half."""
    file = nix.place / "our-key"
    file.touch(mode=0o600)
    file.write_bytes(nixfetch("key", "generate", "ours-1").out)
    return file, nixfetch("key", "public", stdin=file.read_bytes()).out.decode().strip()


def their_key(nix: Nix) -> tuple[Path, str]:
    file = nix.place / "their-key"
    file.touch(mode=0o600)
    file.write_text(nix.run("key", "generate-secret", "--key-name", "theirs-1").stdout)
    public = nix.run("key", "convert-secret-to-public", stdin=file.read_text()).stdout
    return file, public.strip()


def test_public_halves_are_the_same(nix: Nix) -> None:
    ours, our_public = our_key(nix)
    theirs, their_public = their_key(nix)
    of_ours = nix.run("key", "convert-secret-to-public", stdin=ours.read_text()).stdout
    of_theirs = nixfetch("key", "public", stdin=theirs.read_bytes()).out.decode()
    assert of_ours.strip() == our_public
    assert of_theirs.strip() == their_public


@pytest.mark.parametrize("make_key", [our_key, their_key])
def test_what_we_sign_they_accept(nix: Nix, filled: Filled, make_key: KeyMaker) -> None:
    key, public = make_key(nix)
    trust = ["--sigs-needed", "1", "--trusted-public-keys", public]
    assert nix.verify(filled, *trust) == UNTRUSTED
    assert nixfetch("sign", "--store", filled.root, "-k", key, "--all").code == 0
    assert nix.verify(filled, *trust) == 0
    name = public.partition(":")[0]
    seen = nix.signatures(filled)
    assert set(seen) == set(map(str, filled.all))
    assert all(any(text.startswith(name) for text in texts) for texts in seen.values())


@pytest.mark.parametrize("make_key", [our_key, their_key])
def test_what_they_sign_we_accept(nix: Nix, filled: Filled, make_key: KeyMaker) -> None:
    key, public = make_key(nix)
    verify = ["verify", "--store", str(filled.root), "--trusted-key", public, "--all"]
    assert nixfetch(*verify).code == 4
    paths = map(str, filled.all)
    store = ["--store", nix.inside(filled.root)]
    signed = nix.run("store", "sign", *store, "--key-file", nix.inside(key), *paths)
    assert signed.returncode == 0, signed.stderr
    assert nixfetch(*verify).code == 0


def test_both_sign_the_same(nix: Nix, filled: Filled) -> None:
    key, _ = our_key(nix)
    paths = map(str, filled.all)
    store = ["--store", nix.inside(filled.root)]
    nix.run("store", "sign", *store, "--key-file", nix.inside(key), *paths)
    before = nix.signatures(filled)
    again = nixfetch("sign", "--store", filled.root, "-k", key, "--all")
    assert again.err == "added 0 signatures by ours-1\n"
    assert nix.signatures(filled) == before


def test_both_find_the_damage(nix: Nix, filled: Filled) -> None:
    def verdicts() -> tuple[int, int]:
        ours = nixfetch("verify", "--store", filled.root, "--all", "--no-check-sigs")
        return ours.code, nix.verify(filled, "--no-trust")

    assert verdicts() == (0, 0)
    damage(filled.on_disk(filled.library) / "lib/a", b"c0de")
    assert verdicts() == (4, CORRUPT)
    damage(filled.on_disk(filled.library) / "lib/a", b"code")
    assert verdicts() == (0, 0)
    (filled.on_disk(filled.library) / "lib/b").chmod(0o444)
    assert verdicts() == (4, CORRUPT)
