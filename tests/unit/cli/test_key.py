from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from command import nixfetch
from nixfetch.formats.signing import SecretKey

if TYPE_CHECKING:
    from pathlib import Path


def test_a_key_that_signs(tmp_path: Path) -> None:
    ran = nixfetch("key", "generate", "cache.example.org-1")
    assert ran.code == 0
    key = SecretKey.parse(ran.out.decode().removesuffix("\n"))
    assert key.name == "cache.example.org-1"
    assert ran.out.decode().strip() not in ran.err
    assert "hint: " in ran.err


def test_no_two_are_the_same() -> None:
    first, second = (nixfetch("key", "generate", "k", "-q") for _ in range(2))
    assert first.out != second.out
    assert first.err == ""


def test_the_public_half() -> None:
    secret = nixfetch("key", "generate", "k").out
    expected = f"{SecretKey.parse(secret.decode().strip()).public()}\n"
    for text in (secret, secret.strip()):
        ran = nixfetch("key", "public", stdin=text)
        assert (ran.code, ran.out.decode(), ran.err) == (0, expected, "")


@pytest.mark.parametrize("name", ["", "two words", "a:b", "é", "x" * 256])
def test_names_that_no_key_can_have(name: str) -> None:
    ran = nixfetch("key", "generate", name)
    assert (ran.code, ran.out) == (2, b"")
    assert "error: a key name is" in ran.err


@pytest.mark.parametrize("text", [b"", b"k", b"k:AAAA", b"\xff", b"x" * 10_000])
def test_what_is_no_secret_key(text: bytes) -> None:
    ran = nixfetch("key", "public", stdin=text)
    assert (ran.code, ran.out) == (4, b"")


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o640, True), (0o600, False)])
def test_a_file_that_others_can_read_is_warned_of(mode: int, warned: bool, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.touch()
    file.chmod(mode)
    with file.open("wb") as out:
        ran = nixfetch("key", "generate", "k", stdout=out)
    assert ("chmod 600" in ran.err) == warned
    assert SecretKey.parse(file.read_text().strip()).name == "k"


@pytest.mark.parametrize("arguments", [[], ["generate"], ["public", "x"], ["lose"]])
def test_usage(arguments: list[str]) -> None:
    assert nixfetch("key", *arguments).code == 2
