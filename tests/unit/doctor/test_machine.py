"""What the doctor says of this machine."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from nixfetch.doctor import Check, examine_machine, exit_code
from nixfetch.store import LocalStore

if TYPE_CHECKING:
    from pathlib import Path


def examined(root: Path, **environ: str) -> dict[str, Check]:
    return {check.name: check for check in examine_machine(root, environ=environ)}


def test_a_store_to_be(tmp_path: Path) -> None:
    checks = examined(tmp_path / "store")
    assert {name for name, check in checks.items() if check.state == "fail"} == set()
    assert list(checks) == ["store", "disk", "database", "decoders", "libraries", "proxies"]
    assert "to be made" in checks["store"].found
    room = r"[0-9.]+ GiB( and [0-9]+ inodes)? free at "
    assert re.match(room, checks["disk"].found)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_there(tmp_path: Path) -> None:
    LocalStore(tmp_path).close()
    checks = examined(tmp_path)
    assert checks["database"].facts == {"paths": 0}
    assert "to be made" not in checks["store"].found


def test_a_database_that_is_broken(tmp_path: Path) -> None:
    LocalStore(tmp_path).close()
    database = tmp_path / "nix/var/nix/db/db.sqlite"
    database.write_bytes(b"garbage" * 1000)
    for more in database.parent.glob("db.sqlite-*"):
        more.unlink()
    checks = examined(tmp_path)
    assert checks["database"].state == "fail"
    assert checks["database"].fix
    assert exit_code(checks.values()) == 6


@pytest.mark.parametrize("below", ["file", "file/deeper"])
def test_a_store_where_a_file_is(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    checks = examined(tmp_path / below)
    assert checks["disk"].state in {"ok", "warn"}


def test_proxies_are_shown_without_passwords(tmp_path: Path) -> None:
    check = examined(tmp_path, HTTPS_PROXY="http://me:canary@proxy:3128", no_proxy="a,b")["proxies"]
    assert check.found == "HTTPS_PROXY=proxy:3128, no_proxy=a,b"
    assert "canary" not in repr(check)


def test_notes_on_settings(tmp_path: Path) -> None:
    notes = ["/etc/nix/nix.conf:3: passing over daemon"]
    first, *_ = examine_machine(tmp_path, environ={}, notes=notes)
    assert (first.name, first.state, first.found) == ("settings", "warn", notes[0])


def test_libraries_are_named(tmp_path: Path) -> None:
    checks = examined(tmp_path)
    assert "zstd" in checks["libraries"].facts
    assert "xz" in checks["decoders"].found
