from __future__ import annotations

import configparser
from dataclasses import replace
from typing import Any

import pytest

from snapshotter import config
from snapshotter.errors import InvalidArgumentError
from snapshotter.fragments import MARK, Settings
from snapshotter.units import SERVICE, SOCKET, units

NAMESPACES = (
    "BindPaths",
    "BindReadOnlyPaths",
    "InaccessiblePaths",
    "MountFlags",
    "PrivateDevices",
    "PrivateMounts",
    "PrivateTmp",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "ReadOnlyPaths",
    "ReadWritePaths",
    "RootDirectory",
    "TemporaryFileSystem",
)
"""What gives a service a mount namespace of its own; systemd.exec(5)."""


def parsed(settings: Settings) -> dict[str, configparser.ConfigParser]:
    found = {}
    for file in units(settings):
        assert file.path.startswith("/etc/systemd/system/")
        assert MARK in file.text.splitlines()[0]
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(file.text)
        found[file.path.rpartition("/")[2]] = parser
    return found


def changed(field: str, path: str) -> Settings:
    values: dict[str, Any] = {field: path}
    return replace(Settings(), **values)


def test_the_socket_is_for_root_alone_and_the_service_takes_it() -> None:
    found = parsed(Settings())
    assert set(found) == {SERVICE, SOCKET}
    socket = found[SOCKET]["Socket"]
    assert socket["ListenStream"] == Settings().address
    assert (socket["SocketMode"], socket["DirectoryMode"]) == ("0600", "0700")
    assert SOCKET in found[SERVICE]["Unit"]["Requires"]


def test_the_service_starts_what_it_is_told() -> None:
    settings = Settings(
        address="/a/s.sock",
        root="/b",
        store="/c",
        containerd="/d.sock",
        command="/opt/nixfetch/bin/nixfetch-snapshotter",
    )
    service = parsed(settings)[SERVICE]["Service"]
    assert service["ExecStart"] == (
        "/opt/nixfetch/bin/nixfetch-snapshotter serve --address /a/s.sock --root /b --store /c"
        " --containerd-address /d.sock"
    )
    assert service["Type"] == "notify"


def test_what_is_as_usual_is_left_to_the_file_of_settings() -> None:
    service = parsed(Settings())[SERVICE]["Service"]
    assert service["ExecStart"] == "/usr/bin/nixfetch-snapshotter serve"


def test_usual_is_what_the_daemon_thinks_it_is() -> None:
    usual, daemon = Settings(), config.Settings()
    assert usual.address == str(daemon.address)
    assert usual.root == str(daemon.root)
    assert usual.store == str(daemon.store)
    assert usual.containerd == str(daemon.containerd_address)


def test_the_service_sees_the_mounts_of_the_machine() -> None:
    service = parsed(Settings())[SERVICE]["Service"]
    assert not set(NAMESPACES) & set(service)


def test_the_service_may_little() -> None:
    service = parsed(Settings())[SERVICE]["Service"]
    assert "CAP_SYS_ADMIN" not in service["CapabilityBoundingSet"]
    assert service["NoNewPrivileges"] == "yes"


def test_percent_signs_are_no_specifiers() -> None:
    assert "/a%%b" in parsed(Settings(root="/a%b"))[SERVICE]["Service"]["ExecStart"]


@pytest.mark.parametrize("field", ["address", "root", "store", "command"])
@pytest.mark.parametrize("path", ["/a b", "/a\nb", '/a"b', "/a\\b", "/a;b", "/a$b", "/a\0"])
def test_paths_that_systemd_would_take_apart_are_refused(field: str, path: str) -> None:
    with pytest.raises(InvalidArgumentError, match="a unit cannot name that path"):
        units(changed(field, path))
