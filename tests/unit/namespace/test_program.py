from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from nixfetch.namespace import NoProgramError, ProgramError, SeveralProgramsError, execute
from nixfetch.namespace.program import find_program, package_name
from simulated_cache import store_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath

HELLO = store_path("hello-2.12.1")


@pytest.fixture(autouse=True)
def signals_left_alone() -> Iterator[None]:
    """What `execute` changes for the program."""
    numbers = (signal.SIGPIPE, signal.SIGXFSZ)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("hello", "hello"),
        ("hello-2.12.1", "hello"),
        ("gnu-hello-2.12.1", "gnu-hello"),
        ("hello-2.12-dev", "hello"),
        ("python3.11-black-23.1", "python3.11-black"),
        ("a--b", "a"),
        ("source", "source"),
    ],
)
def test_the_name_of_a_package_ends_where_its_version_begins(name: str, package: str) -> None:
    assert package_name(name) == package


def make(store: Path, path: StorePath, *programs: str) -> None:
    for program in programs:
        file = store / path.base / "bin" / program
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(0o755)


def find(store: Path, path: StorePath = HELLO, name: str | None = None) -> str:
    """What is found, without the directory of the store."""
    found = find_program(path, name, store_dir=store)
    return found.removeprefix(f"{store}/{path.base}")


def test_what_is_named_is_taken(tmp_path: Path) -> None:
    assert find(tmp_path, name="bin/other") == "/bin/other"
    assert find_program(HELLO, "bin/x") == f"{HELLO}/bin/x"


def test_the_only_one_is_taken(tmp_path: Path) -> None:
    make(tmp_path, HELLO, "greet", ".greet-wrapped")
    (tmp_path / HELLO.base / "bin/readme").touch(0o644)
    (tmp_path / HELLO.base / "bin/completions").mkdir()
    assert find(tmp_path) == "/bin/greet"


def test_of_several_the_one_that_is_called_as_the_package(tmp_path: Path) -> None:
    make(tmp_path, HELLO, "aloha", "hello", "zdravo")
    assert find(tmp_path) == "/bin/hello"


def test_of_several_others_none(tmp_path: Path) -> None:
    make(tmp_path, HELLO, "zdravo", "aloha")
    with pytest.raises(SeveralProgramsError) as caught:
        find(tmp_path)
    assert caught.value.facts["programs"] == ["aloha", "zdravo"]
    assert caught.value.hint == f"say which: {HELLO}/bin/aloha"


def test_a_file_is_a_program(tmp_path: Path) -> None:
    (tmp_path / HELLO.base).touch()
    assert find(tmp_path) == ""


@pytest.mark.parametrize("directory", ["share", "bin"])
def test_a_path_without_programs(tmp_path: Path, directory: str) -> None:
    (tmp_path / HELLO.base / directory).mkdir(parents=True)
    with pytest.raises(NoProgramError) as caught:
        find(tmp_path)
    assert caught.value.exit_code == 127


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NoProgramError) as caught:
        execute(f"{tmp_path}/x", [], {})
    assert caught.value.exit_code == 127
    (tmp_path / "link").symlink_to("/nix/store/nowhere")
    with pytest.raises(NoProgramError) as caught:
        execute(f"{tmp_path}/link", [], {})
    assert caught.value.facts["leads_to"] == "/nix/store/nowhere"


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (b"#!/bin/sh", 0o644, "permission denied"),
        (b"#!/nix/store/nobody/bin/sh", 0o755, "its loader or interpreter is not there"),
        (b"no program", 0o755, "exec format error"),
        (None, 0o755, "it is a directory"),
    ],
)
def test_what_cannot_be_executed(
    tmp_path: Path, content: bytes | None, mode: int, reason: str
) -> None:
    file = tmp_path / "x"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
        file.chmod(mode)
    with pytest.raises(ProgramError) as caught:
        execute(str(file), [], {})
    assert caught.value.exit_code == 126
    assert caught.value.facts["reason"] == reason


def test_a_program_has_the_signals_of_a_shell() -> None:
    """Python ignores two of them, and that would be inherited."""
    program = (
        "from nixfetch.namespace import execute\n"
        "execute('/bin/sh', ['-c', 'grep SigIgn /proc/self/status'], {'PATH': '/bin:/usr/bin'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=60, check=True
    )
    # Whoever runs tests may ignore some, and a child of ours has them too.
    plain = subprocess.run(
        ["grep", "SigIgn", "/proc/self/status"], capture_output=True, timeout=60, check=True
    )
    assert _signals(done.stdout) == _signals(plain.stdout)


def _signals(line: bytes) -> int:
    """The mask without signals 32 and 33, which the C library keeps for itself."""
    return int(line.split()[1], 16) & 0x7FFF_FFFF
