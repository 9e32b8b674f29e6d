from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from nixfetch.formats.signing import KeyFormatError, SecretKey
from nixfetch.store.disk import DiskError
from nixfetch.store.keyfile import MAX_SIZE, KeyFileError, read_secret_key

if TYPE_CHECKING:
    from pathlib import Path

KEY = SecretKey.from_seed("key-1", bytes(32))


def key_file(directory: Path, text: str | bytes, mode: int = 0o600) -> Path:
    file = directory / "key"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    file.chmod(mode)
    return file


@pytest.mark.parametrize("around", ["", "\n", "\r\n", " \n\n"])
def test_a_key_with_blanks_around(
    around: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_secret_key(key_file(tmp_path, KEY.text() + around)) == KEY
    assert not caplog.records


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602])
def test_a_key_that_others_may_read_is_warned_of(
    mode: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "nixfetch"):
        assert read_secret_key(key_file(tmp_path, KEY.text(), mode)) == KEY
    assert "chmod 600" in caplog.text
    assert KEY.text() not in caplog.text


@pytest.mark.parametrize("text", [b"\xff", b"x" * (MAX_SIZE + 1), b" " * 100_000])
def test_what_is_no_key(text: bytes, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError):
        read_secret_key(key_file(tmp_path, text))


def test_a_public_key_is_no_secret_one(tmp_path: Path) -> None:
    with pytest.raises(KeyFormatError):
        read_secret_key(key_file(tmp_path, str(KEY.public())))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DiskError):
        read_secret_key(tmp_path / "gone")


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(DiskError):
        read_secret_key(tmp_path)
