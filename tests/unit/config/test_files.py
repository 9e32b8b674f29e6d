from __future__ import annotations

import os
from pathlib import Path

import pytest

from nixfetch.config.errors import ConfigError, UnreadableFileError
from nixfetch.config.files import (
    MAX_FILE_SIZE,
    data_directory,
    home_directory,
    nix_conf_files,
    read_file,
    toml_files,
)

HOME = Path("/home/u")


def test_a_file_that_is_not_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert read_file(tmp_path / "none") is None
    assert read_file(tmp_path / "file/below") is None
    assert read_file(tmp_path / "file") == b"x"


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError) as caught:
        read_file(tmp_path)
    assert caught.value.facts == {"file": tmp_path, "reason": "Is a directory"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_of_somebody_else_holds_nothing_of_ours(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    assert read_file(tmp_path / "closed/config.toml") is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch(mode=0)
    with pytest.raises(UnreadableFileError):
        read_file(tmp_path / "file")


def test_size_is_limited(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(MAX_FILE_SIZE))
    assert read_file(tmp_path / "file")
    (tmp_path / "file").write_bytes(bytes(MAX_FILE_SIZE + 1))
    with pytest.raises(ConfigError, match="too large"):
        read_file(tmp_path / "file")


def test_home() -> None:
    assert home_directory({"HOME": "/h"}, HOME) == Path("/h")
    assert home_directory({"HOME": ""}, HOME) == HOME
    assert home_directory({}, None) is None
    assert data_directory({}, None) is None
    assert data_directory({"XDG_DATA_HOME": "/d"}, HOME) == Path("/d")


def test_our_files() -> None:
    system = Path("/etc/nixfetch/config.toml")
    assert toml_files({}, None) == [system]
    assert toml_files({}, HOME) == [system, HOME / ".config/nixfetch/config.toml"]
    assert toml_files({"XDG_CONFIG_HOME": "/c"}, HOME)[1] == Path("/c/nixfetch/config.toml")


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({}, ["/etc/nix/nix.conf", "/etc/xdg/nix/nix.conf", "/home/u/.config/nix/nix.conf"]),
        (
            {"XDG_CONFIG_DIRS": "/a::/b", "XDG_CONFIG_HOME": "/c", "NIX_CONF_DIR": "/n"},
            ["/n/nix.conf", "/b/nix/nix.conf", "/a/nix/nix.conf", "/c/nix/nix.conf"],
        ),
        (
            {"NIX_CONFIG_HOME": "/h", "XDG_CONFIG_HOME": "/c"},
            ["/etc/nix/nix.conf", "/etc/xdg/nix/nix.conf", "/h/nix.conf"],
        ),
        ({"NIX_USER_CONF_FILES": "/one:/two:"}, ["/etc/nix/nix.conf", "/two", "/one"]),
        ({"NIX_USER_CONF_FILES": "", "NIX_CONF_DIR": ""}, ["/etc/nix/nix.conf"]),
    ],
)
def test_nix_conf_files_in_the_order_of_nix(environ: dict[str, str], names: list[str]) -> None:
    assert list(map(str, nix_conf_files(environ, HOME))) == names


def test_without_home_the_files_of_the_machine_are_left() -> None:
    names = ["/etc/nix/nix.conf", "/etc/xdg/nix/nix.conf"]
    assert list(map(str, nix_conf_files({}, None))) == names
