from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from snapshotter import doctor
from snapshotter.doctor import configured, daemon_socket, overlay, user_namespaces
from snapshotter.fragments import Settings, containerd_fragment

if TYPE_CHECKING:
    from pathlib import Path

OLD, MIDDLE, NEW = (1, 6, 20), (1, 7, 24), (2, 1, 9)
CRI = "io.containerd.grpc.v1.cri"
IMAGES = "io.containerd.cri.v1.images"
TRANSFER = "io.containerd.transfer.v1.local"


def states(version: tuple[int, int, int], configuration: dict[str, Any]) -> dict[str, str]:
    return {check.name: check.state for check in configured("nix", version, configuration)}


@pytest.mark.parametrize("version", [OLD, MIDDLE, NEW])
def test_what_install_writes_is_right(version: tuple[int, int, int]) -> None:
    import tomllib

    told = states(version, tomllib.loads(containerd_fragment(Settings(), version)))
    assert set(told.values()) == {"ok"}
    assert ("unpack_config" in told) == (version != OLD)


@pytest.mark.parametrize(("version", "transfer"), [(OLD, None), (MIDDLE, "warn"), (NEW, "fail")])
def test_a_configuration_that_says_nothing(
    version: tuple[int, int, int], transfer: str | None
) -> None:
    told = states(version, {})
    assert told.pop("unpack_config", None) == transfer
    assert told == {"Kubernetes": "warn", "annotations": "warn"}


def test_annotations_that_are_not_handed_on() -> None:
    images = {"snapshotter": "nix", "disable_snapshot_annotations": True}
    transfer = {"unpack_config": [{"snapshotter": "nix"}]}
    told = states(NEW, {"plugins": {IMAGES: images, TRANSFER: transfer}})
    assert told == {"Kubernetes": "ok", "annotations": "warn", "unpack_config": "ok"}


@pytest.fixture
def address(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    return folder / "s.sock"


def listening(address: Path, mode: int = 0o600) -> closing[socket.socket]:
    found = socket.socket(socket.AF_UNIX)
    found.bind(str(address))
    address.chmod(mode)
    return closing(found)


def test_no_daemon(address: Path) -> None:
    check = daemon_socket(address)
    assert check.state == "fail"
    assert "no socket" in check.found
    assert check.fix == "systemctl start nixfetch-snapshotter"


def test_a_file_in_its_place(address: Path) -> None:
    address.write_text("")
    assert "is no socket" in daemon_socket(address).found


def test_a_link_in_its_place(address: Path) -> None:
    with listening(address.with_name("other.sock")):
        address.symlink_to("other.sock")
        assert "is no socket" in daemon_socket(address).found


@pytest.mark.parametrize("mode", [0o666, 0o660, 0o606, 0o700])
def test_a_socket_for_others(address: Path, mode: int) -> None:
    with listening(address, mode):
        check = daemon_socket(address)
    assert check.state == "fail"
    assert f"mode {mode:04o}" in check.found
    assert check.fix == "chmod 600"


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701])
def test_a_folder_for_others(address: Path, mode: int) -> None:
    address.parent.chmod(mode)
    with listening(address):
        check = daemon_socket(address)
    assert check.state == "fail"
    assert check.fix == "chmod 700"


def test_a_socket_of_somebody_else(address: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    with listening(address):
        os.chown(address, 12345, 12345)
        check = daemon_socket(address)
    assert check.state == "fail"
    assert "belongs to user 12345" in check.found


def test_nobody_listens(address: Path) -> None:
    with listening(address):
        check = daemon_socket(address)
    assert check.state == "fail"
    assert "does not answer" in check.found
    assert "journalctl" in (check.fix or "")


def sysctl(folder: Path, **values: str) -> Path:
    for name, value in values.items():
        place = folder / name.replace("__", "/")
        place.parent.mkdir(exist_ok=True)
        place.write_text(f"{value}\n")
    return folder


def test_user_namespaces_for_all(tmp_path: Path) -> None:
    check = user_namespaces(sysctl=sysctl(tmp_path, user__max_user_namespaces="100"))
    assert (check.state, check.found) == ("ok", "up to 100")


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"user__max_user_namespaces": "0"},
        {"user__max_user_namespaces": "9", "kernel__unprivileged_userns_clone": "0"},
        {"user__max_user_namespaces": "9", "kernel__apparmor_restrict_unprivileged_userns": "1"},
    ],
)
def test_user_namespaces_for_few(tmp_path: Path, values: dict[str, str]) -> None:
    assert user_namespaces(sysctl=sysctl(tmp_path, **values)).state == "warn"


def test_layers_are_tried_and_nothing_stays(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("no unshare here, or not root")
    check = overlay(tmp_path / "not/there/yet")
    assert check.state == "ok", check
    assert str(tmp_path) in check.found
    assert not list(tmp_path.iterdir())


def test_a_file_system_that_has_no_layers() -> None:
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("no unshare here, or not root")
    from pathlib import Path

    check = overlay(Path("/proc/self"))
    assert check.state in {"warn", "fail"}


def test_the_verb_on_a_machine_that_has_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    words = ["--address", f"{tmp_path}/s.sock", "--containerd", f"{tmp_path}/c.sock"]
    assert doctor.run(parser.parse_args([*words, "--root", str(tmp_path)])) == 6
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("fail  daemon: no socket") for line in lines)
    assert any(line.startswith("fail  containerd: ") for line in lines)
    assert "      fix: systemctl start nixfetch-snapshotter" in lines
    assert doctor.run(parser.parse_args([*words, "--root", str(tmp_path), "--json"])) == 6
    document = json.loads(capsys.readouterr().out)
    assert document["exit_code"] == 6
    assert {check["name"] for check in document["checks"]} == {
        "overlayfs",
        "user namespaces",
        "daemon",
        "containerd",
    }


def test_odd_names_stay_in_their_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    place = f"{tmp_path}/a\n\x1b[31mb.sock"
    doctor.run(parser.parse_args(["--address", place, "--containerd", place, "--root", "/tmp"]))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert all(line[:6].strip() in {"ok", "warn", "fail", ""} for line in out.splitlines())
