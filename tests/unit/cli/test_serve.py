"""`nixfetch serve`: what it refuses, what it says, and how it ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from command import nixfetch
from filled_store import fill
from nixfetch.formats.narinfo import NarInfo
from simulated_cache import KEY, OTHER_KEY, SimulatedCache

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def serving(*arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a process of its own, and its URL."""
    command = [sys.executable, "-m", "nixfetch.cli", "serve", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            match = re.fullmatch(r"serving (.+) on (http://127\.0\.0\.1:\d+)\n", _line(process))
            assert match
            yield process, match[2]
        finally:
            process.kill()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline()


def get(url: str) -> bytes:
    with urlopen(url, timeout=10) as answer:
        data: bytes = answer.read()
    return data


@pytest.mark.parametrize("text", ["5000", ":5000", "host:99999", "::1:80"])
def test_an_address_that_is_none_is_a_usage_error(tmp_path: Path, text: str) -> None:
    ran = nixfetch("serve", "--listen", text, "--store", tmp_path)
    assert (ran.code, ran.out) == (2, b"")
    assert ran.err.startswith("error: ")


def test_a_cache_and_a_key_are_a_usage_error(tmp_path: Path) -> None:
    assert nixfetch("serve", "--cache", tmp_path, "--key-file", tmp_path / "key").code == 2


def test_no_store(tmp_path: Path) -> None:
    ran = nixfetch("serve", "--listen", "127.0.0.1:0", "--store", tmp_path / "none")
    assert (ran.code, ran.out) == (6, b"")
    assert not (tmp_path / "none").exists()


def test_no_cache(tmp_path: Path) -> None:
    ran = nixfetch("serve", "--listen", "127.0.0.1:0", "--cache", tmp_path)
    assert (ran.code, ran.out) == (6, b"")
    assert "no binary cache" in ran.err


def test_a_store_signed_once_more(tmp_path: Path) -> None:
    filled = fill(tmp_path / "store")
    key_file = tmp_path / "key"
    key_file.write_text(OTHER_KEY.text())
    key_file.chmod(0o600)
    with serving("--store", filled.root, "--key-file", key_file) as (_, url):
        info = NarInfo.parse(get(f"{url}/{filled.top.hash_part}.narinfo"))
    assert {sig.key_name for sig in info.signatures} == {KEY.name, OTHER_KEY.name}


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_signal_ends_it(tmp_path: Path, number: int, code: int) -> None:
    SimulatedCache().dump(tmp_path)
    with serving("--cache", tmp_path, "-v") as (process, url):
        get(f"{url}/nix-cache-info")
        assert re.fullmatch(
            r"(?:info: )?127\.0\.0\.1:\d+ GET /nix-cache-info 200\n", _line(process)
        )
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (code, "")
    assert err == ""
