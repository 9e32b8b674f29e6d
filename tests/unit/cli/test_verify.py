from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from command import Ran, nixfetch
from filled_store import Filled, damage, fill
from simulated_cache import KEY, store_path

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    return fill(tmp_path / "store")


def verify(filled: Filled, *arguments: str) -> Ran:
    return nixfetch(
        "verify", "--store", filled.root, "--trusted-key", str(KEY.public()), *arguments
    )


def test_all_good(filled: Filled) -> None:
    assert verify(filled, "--all") == Ran(0, b"", "")
    assert verify(filled, *map(str, filled.all)) == Ran(0, b"", "")
    assert verify(filled, filled.top.hash_part, filled.text.base) == Ran(0, b"", "")


def test_a_line_a_bad_path(filled: Filled) -> None:
    damage(filled.on_disk(filled.library) / "lib/a", b"c0de")
    damage(filled.on_disk(filled.text), b"longer than before")
    ran = verify(filled, "--all")
    assert (ran.code, ran.err) == (4, "")
    lines = sorted(ran.out.decode().splitlines())
    assert len(lines) == 2
    for path, line in zip(sorted([filled.library, filled.text]), lines, strict=True):
        assert line.startswith(f"{path}: content is not what was registered (expected sha256:")
    assert verify(filled, "--all", "--no-contents").code == 0
    assert verify(filled, str(filled.top)).code == 0


def test_a_line_stays_one(filled: Filled) -> None:
    library = filled.on_disk(filled.library) / "lib"
    library.chmod(0o755)
    os.mkfifo(library / "new\nline\x1b")
    out = verify(filled, "--all").out
    assert out.count(b"\n") == 1
    assert b"file new\\nline\\x1b)" in out


def test_signatures(filled: Filled) -> None:
    ran = nixfetch("verify", "--store", filled.root, "--all")
    assert ran.code == 4
    assert {line.partition(":")[0] for line in ran.out.decode().splitlines()} == {
        str(filled.top),
        str(filled.library),
    }
    assert verify(filled, "--all", "--sigs-needed", "2").code == 4
    assert nixfetch("verify", "--store", filled.root, "--all", "--no-check-sigs").code == 0


def test_a_path_that_is_not_valid(filled: Filled) -> None:
    gone = store_path("gone")
    ran = verify(filled, str(gone), str(filled.top))
    assert ran.code == 4
    assert ran.out.decode() == f"{gone}: path is not valid in this store\n"


def test_json(filled: Filled) -> None:
    damage(filled.on_disk(filled.text), b"other")
    ran = verify(filled, "--json", str(filled.library), str(filled.text))
    assert (ran.code, ran.err) == (4, "")
    report = json.loads(ran.out)
    (problem,) = report["paths"][1].pop("problems")
    assert problem["error"] == "content is not what was registered"
    assert problem["exit_code"] == 4
    assert report == {
        "store": str(filled.root),
        "contents": True,
        "verified": 2,
        "bad": 1,
        "paths": [
            {
                "path": str(filled.library),
                "good": True,
                "signed_by": ["simulated-1"],
                "content_addressed": False,
                "problems": [],
            },
            {
                "path": str(filled.text),
                "good": False,
                "signed_by": [],
                "content_addressed": True,
            },
        ],
    }


def test_a_store_that_cannot_be_read(filled: Filled, tmp_path: Path) -> None:
    assert nixfetch("verify", "--store", tmp_path / "none", "--all").code == 6
    with closing(sqlite3.connect(filled.root / "nix/var/nix/db/db.sqlite")) as connection:
        connection.execute("update ValidPaths set hash = 'x'")
        connection.commit()
    ran = verify(filled, "--all")
    assert ran.code == 6
    assert ran.out.count(b"\n") == 4


def test_a_store_stays_untouched(filled: Filled, tmp_path: Path) -> None:
    verify(filled, "--all")
    before = sorted(filled.root.rglob("*"))
    verify(filled, "--all")
    assert sorted(filled.root.rglob("*")) == before


@pytest.mark.parametrize("arguments", [[], ["--all", "x"], ["--repair", "--all"]])
def test_usage(arguments: list[str], filled: Filled) -> None:
    assert verify(filled, *arguments).code == 2


def test_a_path_that_is_none(filled: Filled) -> None:
    assert verify(filled, "hello").code in {2, 4}
