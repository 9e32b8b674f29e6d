from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from nixfetch.formats.storepath import StorePath
from nixfetch.store.disk import DiskError
from nixfetch.store.layout import Layout
from nixfetch.store.runtime import runtime_roots
from simulated_cache import store_path

if TYPE_CHECKING:
    from pathlib import Path

A, B, C, D, E, F, G, H = map(store_path, "abcdefgh")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "root")
    layout.store.mkdir(parents=True)
    return layout


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc of one process that uses nothing of a store."""
    process = tmp_path / "proc/12"
    (process / "fd").mkdir(parents=True)
    (process / "exe").symlink_to("/usr/bin/true")
    (process / "cwd").symlink_to("/")
    (process / "root").symlink_to("/")
    (process / "maps").touch()
    (process / "environ").touch()
    return tmp_path / "proc"


def test_links_of_a_process(layout: Layout, proc: Path) -> None:
    assert runtime_roots(layout, proc=proc) == set()
    targets = {
        "exe": f"{A}/bin/a",
        "cwd": f"{B}",
        "root": f"{layout.physical(C)}/",
        "fd/3": f"{layout.physical(D)}/x (deleted)",
        "fd/4": "socket:[17]",
        "fd/5": f"/elsewhere{E}",
        "fd/6": "/nix/store",
        "fd/7": "/nix/store/.links/x",
    }
    for name, target in targets.items():
        link = proc / "12" / name
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    assert runtime_roots(layout, proc=proc) == {A, B, C, D}


def test_maps_and_environment(layout: Layout, proc: Path) -> None:
    (proc / "12/maps").write_text(
        f"7f00-7f01 r-xp 00000000 08:01 1234   {A}/lib/a.so\n"
        "7f01-7f02 rw-p 00000000 00:00 0\n"
        "7f01-7f02 rw-p 00000000 00:00 0   [heap]\n"
        f"7f02-7f03 r--p 00000000 08:01 99   {layout.physical(B)}/lib/b.so (deleted)\n"
    )
    (proc / "12/environ").write_bytes(
        f"PATH={C}/bin:{layout.physical(D)}/bin\0X={E}\0".encode() + b"Y=\xff/nix/store/no\0"
    )
    assert runtime_roots(layout, proc=proc) == {A, B, C, D, E}


def test_what_the_kernel_runs_by_itself(layout: Layout, proc: Path) -> None:
    (proc / "sys/kernel").mkdir(parents=True)
    (proc / "sys/kernel/modprobe").write_text(f"{A}/bin/modprobe\n")
    assert runtime_roots(layout, proc=proc) == {A}


def test_a_store_behind_a_link(tmp_path: Path, proc: Path) -> None:
    real = Layout(tmp_path / "real")
    real.store.mkdir(parents=True)
    (tmp_path / "alias").symlink_to(real.root)
    alias = Layout(tmp_path / "alias")
    (proc / "12/fd/3").symlink_to(real.physical(A))
    (proc / "12/environ").write_text(f"X={alias.physical(B)}")
    assert runtime_roots(alias, proc=proc) == {A, B}


def test_processes_that_end_or_may_not_be_looked_into(layout: Layout, proc: Path) -> None:
    (proc / "13").mkdir()
    (proc / "self").symlink_to("12")
    (proc / "12/fd/3").symlink_to(str(A))
    assert runtime_roots(layout, proc=proc) == {A}


def test_no_proc_keeps_nothing_and_says_so(
    layout: Layout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert runtime_roots(layout, proc=tmp_path / "none") == set()
    assert "cannot see what running processes use" in caplog.text


def test_another_error_is_one(layout: Layout, proc: Path) -> None:
    (proc / "12/environ").unlink()
    (proc / "12/environ").symlink_to("environ")  # a circle
    with pytest.raises(DiskError) as caught:
        runtime_roots(layout, proc=proc)
    assert caught.value.facts["file"] == str(proc / "12/environ")


def test_a_real_process(layout: Layout) -> None:
    """Started in a path, with another one open and a third in its environment."""
    paths = [StorePath.parse(path.base) for path in (A, B, C)]
    layout.physical(A).mkdir()
    layout.physical(B).write_bytes(b"data")
    code = "import sys; open(sys.argv[1]); file = open(sys.argv[1]); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, layout.physical(B)],
        cwd=layout.physical(A),
        env={**os.environ, "NEEDED": str(C)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert runtime_roots(layout) >= set(paths)
        process.communicate(b"\n")
    assert not runtime_roots(layout) & set(paths)
