from __future__ import annotations

import fcntl
import json
import os
import subprocess
from contextlib import chdir, suppress
from typing import TYPE_CHECKING, Any

import pytest

from nixfetch.cli.sizes import size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from unit.cli.conftest import Run


@pytest.fixture
def fetched(run: Run, closure: dict[str, Any], source: list[str], tmp_path: Path) -> Path:
    """A store that has all of the fixtures, and no root."""
    store = tmp_path / "store"
    assert run("fetch", closure["root"], *source, "--store", store).code == 0
    return store


def test_prints_what_goes_and_how_much(run: Run, closure: dict[str, Any], fetched: Path) -> None:
    say = closure["roles"]["static"]
    run("roots", "add", "say", say, "--store", fetched)
    dry = run("gc", "--dry-run", "--store", fetched)
    assert dry.code == 0
    assert dry.err.startswith("would delete 10 paths: at least ")
    ran = run("gc", "--store", fetched)
    assert (ran.code, ran.out) == (0, dry.out)
    assert set(ran.out.split()) == set(closure["closure"]) - {say}
    assert ran.err.startswith("deleted 10 paths: ")
    assert ran.err.endswith(" freed\n")
    ran = run("gc", "-q", "--store", fetched)
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_json(run: Run, closure: dict[str, Any], fetched: Path) -> None:
    (fetched / "nix/store/junk").mkdir()
    dry = json.loads(run("gc", "--json", "--dry-run", "--store", fetched).out)
    ran = run("gc", "--json", "--store", fetched)
    report = json.loads(ran.out)
    assert report["paths"] == dry["paths"]
    assert set(report["paths"]) == set(closure["closure"])
    assert (dry.pop("dry_run"), report.pop("dry_run")) == (True, False)
    assert report["bytes_freed"] >= dry["bytes_freed"] > 0
    assert report["links_removed"] > 0
    assert (report["store"], report["leftovers"], report["failures"]) == (
        str(fetched),
        ["junk"],
        [],
    )
    assert "deleted 11 paths and 1 leftover: " in ran.err


def test_limits(run: Run, closure: dict[str, Any], fetched: Path) -> None:
    assert run("gc", "--keep-free", "1K", "--store", fetched).out == ""
    assert run("gc", "--max-delete", "0", "--store", fetched).out == ""
    words = ["gc", "--max-delete", "1", "--keep-free", "8000000T", "--store", fetched]
    assert run(*words).out == f"{closure['root']}\n"
    ran = run("gc", "--max-delete", "much", "--store", fetched)
    assert ran.code == 2


def test_sizes() -> None:
    assert [size(text) for text in ("0", "512K", "2G", "1T")] == [0, 2**19, 2**31, 2**40]


def test_another_collector(run: Run, fetched: Path) -> None:
    lock = os.open(fetched / "nix/var/nix/gc.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    ran = run("gc", "--store", fetched)
    os.close(lock)
    assert ran.code == 75
    assert ran.err.startswith("error: another garbage collector is at work\n")


def test_no_store_is_made(run: Run, tmp_path: Path) -> None:
    for words in (["gc"], ["gc", "--dry-run"]):
        ran = run(*words, "--store", tmp_path / "none")
        assert ran.code == 6
        assert ran.err.startswith("error: there is no store here: ")
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_on_a_full_disk(run: Run, closure: dict[str, Any], source: list[str], disk: Path) -> None:
    """With not a byte left, what was kept for this moment is enough."""
    store = disk / "store"
    assert run("fetch", closure["root"], *source, "--store", store).code == 0
    with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))
    assert os.statvfs(disk).f_bavail == 0
    assert run("fetch", closure["roles"]["static"], *source, "--store", store).code == 6
    ran = run("gc", "--store", store)
    assert (ran.code, len(ran.out.split())) == (0, 11)
    assert (store / "nix/var/nix/db/reserved").exists()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty disk of 6 MB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=6M", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_what_cannot_be_removed_is_said(run: Run, closure: dict[str, Any], fetched: Path) -> None:
    """A path that something is mounted on has a name that cannot be taken away."""
    tree = fetched / "nix/store" / closure["root"][11:]
    if subprocess.run(["mount", "--bind", tree, tree], check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        ran = run("gc", "--store", fetched)
    finally:
        subprocess.run(["umount", tree], check=True)
    assert ran.code == 6
    assert f"error: device or resource busy: {closure['root']}\n" in ran.err
    assert "errno: EBUSY" in ran.err
    assert closure["root"] not in ran.out
    assert "deleted 10 paths: " in ran.err
    assert "; 1 could not be removed" in ran.err
    ran = run("gc", "--store", fetched)
    assert ran.code == 0
    assert "deleted 0 paths and 1 leftover: " in ran.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file immutable")
def test_what_is_immutable_is_not_deleted(run: Run, closure: dict[str, Any], fetched: Path) -> None:
    (program,) = fetched.glob(f"{closure['roles']['static'][1:]}/bin/*")
    linked = next(
        file
        for file in (fetched / "nix/store/.links").iterdir()
        if not file.is_symlink() and file.samefile(program)
    )
    if subprocess.run(["chattr", "+i", program], check=False, capture_output=True).returncode:
        pytest.skip("no file can be made immutable here")
    size = program.stat().st_blocks * 512
    try:
        reports = [run("gc", "--json", "--store", fetched) for _ in range(2)]
    finally:
        subprocess.run(["chattr", "-i", linked], check=True)
    first, second = (json.loads(report.out) for report in reports)
    assert [report.code for report in reports] == [6, 6]
    assert closure["roles"]["static"] not in first["paths"]
    assert len(first["paths"]) == 10
    assert first["failures"][0]["facts"]["path"] == closure["roles"]["static"]
    assert "immutable" in first["failures"][0]["hint"]
    assert (second["paths"], second["leftovers"]) == ([], [])
    assert second["bytes_freed"] < size
    ran = run("gc", "--store", fetched)
    assert ran.code == 0
    assert "deleted 0 paths and 1 leftover: " in ran.err


def test_what_was_kept_and_cannot_be_given_up_is_named_whole(run: Run, fetched: Path) -> None:
    reserve = fetched / "nix/var/nix/db/reserved"
    reserve.unlink()
    reserve.mkdir()
    with chdir(fetched.parent):
        ran = run("gc", "--store", fetched.name)
    assert ran.code == 6
    assert f": {reserve}\n" in ran.err
    assert f"  store: {fetched.name}\n" in ran.err
