from __future__ import annotations

import os
from pathlib import Path

import pytest

from snapshotter import config
from snapshotter.config import MAX_FILE, Settings, SettingsError


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "snapshotter.toml"
    file.write_text(text)
    return file


def test_flags_over_the_file_over_defaults(tmp_path: Path) -> None:
    file = write(tmp_path, 'root = "/a"\nstore = "/b"\nmax-binds = 7\ndurable = false\n')
    settings = config.load({"root": "/c", "max_binds": 8, "address": None}, file)
    assert settings == Settings(root=Path("/c"), store=Path("/b"), max_binds=8, durable=False)


def test_all_keys(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        root = "/r"
        address = "/a.sock"
        store = "/s"
        containerd-address = ""
        mount-mode = "lower"
        max-binds = 0
        durable = true
        metrics-address = "127.0.0.1:9000"
        log-format = "json"
        log-level = "debug"
        """,
    )
    settings = config.load({}, file)
    assert settings == Settings(
        root=Path("/r"),
        address=Path("/a.sock"),
        store=Path("/s"),
        containerd_address=None,
        mount_mode="lower",
        max_binds=0,
        metrics_address="127.0.0.1:9000",
        log_format="json",
        log_level="debug",
    )


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("rooot = '/a'", "did you mean root?"),
        ("mount_mode = 'auto'", "did you mean mount-mode?"),
        ("qqqq = 1", "known: address"),
    ],
)
def test_an_unknown_key(tmp_path: Path, text: str, hint: str) -> None:
    with pytest.raises(SettingsError, match="unknown key") as caught:
        config.load({}, write(tmp_path, text))
    assert hint in (caught.value.hint or "")
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    "text",
    [
        "root = 'relative'",
        "root = 1",
        "root = ''",
        'root = "/a\\u0000b"',
        "mount-mode = 'both'",
        "max-binds = -1",
        "max-binds = 20001",
        "max-binds = true",
        "max-binds = '7'",
        "durable = 1",
        "metrics-address = 9000",
        "log-level = 'loud'",
        "containerd-address = 'x'",
    ],
)
def test_an_unfit_value(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match="unfit") as caught:
        config.load({}, write(tmp_path, text))
    assert caught.value.facts["setting"] == text.split(" =", maxsplit=1)[0]
    assert caught.value.facts["file"] == tmp_path / "snapshotter.toml"


@pytest.mark.parametrize("text", ["root", "[[", "a = " + "[" * 10_000, "\xff", "x = " + "9" * 5000])
def test_malformed_files(tmp_path: Path, text: str) -> None:
    file = tmp_path / "snapshotter.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingsError):
        config.load({}, file)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        config.load({}, tmp_path / "missing.toml")
    with pytest.raises(SettingsError, match="too large"):
        config.load({}, write(tmp_path, "#" * (MAX_FILE + 1)))


def test_paths_that_mounts_and_sockets_can_have() -> None:
    with pytest.raises(SettingsError, match="too long"):
        config.load({"address": "/" + "x" * 106})
    config.load({"address": "/" + "x" * 105})
    with pytest.raises(SettingsError):
        config.load({"root": "/a:b"})


def test_an_unfit_flag_is_named() -> None:
    with pytest.raises(SettingsError) as caught:
        config.load({"max_binds": -1})
    assert caught.value.facts["flag"] == "--max-binds"


@pytest.mark.parametrize("address", ["unix:", "unix:relative.sock"])
def test_a_socket_of_metrics_has_an_absolute_path(address: str) -> None:
    with pytest.raises(SettingsError) as caught:
        config.load({"metrics_address": address})
    assert caught.value.facts["setting"] == "metrics-address"


def test_a_root_that_overlayfs_cannot_take() -> None:
    with pytest.raises(SettingsError, match="overlayfs"):
        config.load({"root": "/a:b"})


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingsError, match="no regular file"):
        config.load({}, tmp_path / "pipe")
