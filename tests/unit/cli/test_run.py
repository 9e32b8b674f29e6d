"""What comes before a program: with one the process is another. For that see the e2e tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from nixfetch.cli import app
from nixfetch.cli.arguments import parse
from nixfetch.cli.run import words

if TYPE_CHECKING:
    from pathlib import Path

    from unit.cli.conftest import Run

HASH = "0" * 32


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (f"/nix/store/{HASH}-a", (f"{HASH}-a", None, [])),
        (f"{HASH}-a x", (f"{HASH}-a", None, ["x"])),
        (f"/nix/store/{HASH}-a/bin/b x y", (f"{HASH}-a", "bin/b", ["x", "y"])),
        (f"{HASH}/bin/b", (HASH, "bin/b", [])),
        (f"{HASH}-a/", (f"{HASH}-a", None, [])),
        (f"{HASH} -- x", (HASH, None, ["x"])),
        (f"{HASH} -- -- x", (HASH, None, ["--", "x"])),
        (f"{HASH} x -- y", (HASH, None, ["x", "--", "y"])),
        (
            f"{HASH} --help -v --store x --from",
            (HASH, None, ["--help", "-v", "--store", "x", "--from"]),
        ),
        (f"-- {HASH} --help", (HASH, None, ["--help"])),
        (f"-- {HASH} -- x", (HASH, None, ["x"])),
        (f"-v --store s {HASH} -v", (HASH, None, ["-v"])),
    ],
)
def test_flags_behind_the_path_are_for_the_program(
    typed: str, meant: tuple[str, str | None, list[str]]
) -> None:
    args = parse(["run", *typed.split()], app.VERBS, app._module)
    assert words(args.command) == meant
    assert getattr(args, "verbosity", 0) == (1 if typed.startswith("-v") else 0)


def test_a_path_is_needed(run: Run) -> None:
    assert run("run").code == 2
    assert run("run", "--no-fsync").code == 2


def test_what_fails_before_there_is_a_program_has_one_exit_code(
    run: Run, closure: dict[str, Any], source: list[str], tmp_path: Path
) -> None:
    store = ["--store", tmp_path / "store"]
    empty = tmp_path / "empty"
    empty.mkdir()
    ran = run("run", *store, "--from", f"file://{empty}", closure["root"])
    assert ran.code == 125
    assert "no such object" in ran.err
    ran = run("run", *store, *source, "no-path/bin/x")
    assert ran.code == 125
    assert ran.err.startswith("error: not a store path: no-path\n")
    (tmp_path / "file").touch()
    assert run("run", "--store", tmp_path / "file", *source, closure["root"]).code == 125
