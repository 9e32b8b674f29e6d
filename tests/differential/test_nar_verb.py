"""`nixfetch nar` and real Nix on the same trees: dump, unpack, ls, hash.

`nix-store` and `nix hash` are those in PATH; `nix nar ls` is that of the system that
NIXFETCH_TEST_CHROOT names (2.34: older ones print less JSON), which needs root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from command import nixfetch
from trees import dump, generated, plant

pytestmark = pytest.mark.differential

TREES = 312  # every kind of `generated` 26 times
LISTED = 36
TIMEOUT = 60  # seconds for one command
NIX = ("nix", "--extra-experimental-features", "nix-command")
ENVIRON = {"PATH": os.environ.get("PATH", ""), "NIX_CONFIG": "build-users-group ="}


@pytest.fixture(scope="module")
def nix_store() -> str:
    program = shutil.which("nix-store")
    if program is None:
        pytest.skip("no nix-store in PATH")
    return program


def output(*command: str | Path, code: int = 0) -> bytes:
    done = subprocess.run(command, capture_output=True, check=False, timeout=TIMEOUT, env=ENVIRON)
    assert done.returncode == code, done.stderr
    return done.stdout


@pytest.mark.parametrize("seed", range(TREES))
def test_dump_and_unpack(seed: int, nix_store: str, tmp_path: Path) -> None:
    tree = generated(seed)
    plant(tree, tmp_path / "tree")
    theirs = output(nix_store, "--dump", tmp_path / "tree")
    assert theirs == dump(tree)
    ran = nixfetch("nar", "dump", tmp_path / "tree")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == theirs
    (tmp_path / "nar").write_bytes(theirs)
    assert nixfetch("nar", "unpack", tmp_path / "nar", tmp_path / "ours").code == 0
    assert output(nix_store, "--dump", tmp_path / "ours") == theirs


def test_modes_are_those_of_restore(nix_store: str, tmp_path: Path) -> None:
    plant(generated(5), tmp_path / "tree")
    nar = tmp_path / "nar"
    nar.write_bytes(output(nix_store, "--dump", tmp_path / "tree"))
    with nar.open("rb") as stdin:
        restore = [nix_store, "--restore", str(tmp_path / "theirs")]
        subprocess.run(restore, stdin=stdin, check=True, timeout=TIMEOUT, env=ENVIRON)
    nixfetch("nar", "unpack", nar, tmp_path / "ours")
    assert modes(tmp_path / "ours") == modes(tmp_path / "theirs")


def modes(path: Path) -> dict[str, int]:
    below = {str(entry.relative_to(path)): entry.lstat().st_mode for entry in path.rglob("*")}
    return below | {".": path.lstat().st_mode}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    "flags", [[], ["--base32"], ["--base16"], ["--base64"], ["--type", "sha512"]]
)
def test_hash(flags: list[str], seed: int, tmp_path: Path) -> None:
    if shutil.which("nix") is None:
        pytest.skip("no nix in PATH")
    plant(generated(seed), tmp_path / "tree")
    theirs = output(*NIX, "hash", "path", *flags, tmp_path / "tree")
    assert nixfetch("nar", "hash", *flags, tmp_path / "tree").out == theirs


@pytest.mark.parametrize("seed", range(LISTED))
def test_ls(seed: int) -> None:
    named = os.environ.get("NIXFETCH_TEST_CHROOT")
    if not named or os.geteuid():
        pytest.skip("NIXFETCH_TEST_CHROOT is not set, or we are not root")
    tree = generated(seed)
    with tempfile.TemporaryDirectory(dir=Path(named, "tmp")) as directory:
        nar = Path(directory, "nar")
        nar.write_bytes(dump(tree))
        inside = ["/"]
        if isinstance(tree, dict):
            inside += [os.fsdecode(name) for name in list(tree)[:4]] + ["/no/such"]
        for sub in inside:
            for flags in ([], ["-l"], ["-R", "-l"], ["--json"], ["-R", "--json"]):
                compare_ls(Path(named), nar, sub, flags)


def compare_ls(root: Path, nar: Path, sub: str, flags: list[str]) -> None:
    chroot = ["chroot", str(root), *NIX]
    theirs = subprocess.run(
        # Flags first: a name may begin with a dash.
        [*chroot, "nar", "ls", *flags, "--", str(Path("/", nar.relative_to(root))), sub],
        capture_output=True,
        check=False,
        timeout=TIMEOUT,
        env=ENVIRON,
    )
    ours = nixfetch("nar", "ls", *flags, "--", nar, sub)
    if b"UTF-8" in theirs.stderr:
        # Nix gives up on JSON then; we keep the bytes of the name.
        assert "--json" in flags
        assert (ours.code, ours.err) == (0, "")
        return
    assert ours.code == theirs.returncode, (sub, flags, ours.err, theirs.stderr)
    assert ours.out == theirs.stdout, (sub, flags)
