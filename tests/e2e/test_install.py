"""What `nixfetch-snapshotter install` writes, given to both real containerds and to systemd."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from containerd_host import VERSIONS, Node, Version, node, scratch
from snapshotter import doctor, fragments, install, units

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e

STOCK = """\
version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd/opt"
"""
"""The main configuration of Debian's packages, of 1.6 as of 2.1."""


def arguments(*words: str | Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    install.add_arguments(parser)
    return parser.parse_args(list(map(str, words)))


def installed(folder: Path, version: Version, *more: str) -> int:
    """Install for one containerd below `folder`."""
    words = ("--containerd", "--containerd-version", version, "--destination", folder, *more)
    return install.run(arguments(*words))


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> Version:
    version: Version = request.param
    return version


@pytest.fixture
def host(version: Version, tmp_path: Path) -> Iterator[Node]:
    """A containerd whose configuration imports what was installed."""
    installed(tmp_path, version)
    fragment = tmp_path / install.CONTAINERD_FRAGMENT.removeprefix("/")
    with scratch() as folder, node(version, folder, fragments=[fragment.read_text()]) as host:
        yield host


def dump(host: Node, folder: Path) -> dict[str, Any]:
    """The configuration that this containerd makes of the one below `folder`."""
    seen = host.folder / "etc"
    shutil.copytree(folder / "etc/containerd", seen)
    host.run("mount", "--bind", seen, "/etc/containerd")
    ran = host.run("containerd", "config", "dump")
    assert "Ignoring" not in ran.err
    return tomllib.loads(ran.out)


def plugin(configuration: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = configuration["plugins"][name]
    return found


def cri(configuration: dict[str, Any], version: Version) -> dict[str, Any]:
    if version == "1.6":
        found: dict[str, Any] = plugin(configuration, "io.containerd.grpc.v1.cri")["containerd"]
        return found
    return plugin(configuration, "io.containerd.cri.v1.images")


def test_containerd_has_the_snapshotter(host: Node) -> None:
    lines = host.ctr("plugins", "ls").out.splitlines()
    (nix,) = [line.split() for line in lines if line.split()[1] == "nix"]
    assert nix[0] == "io.containerd.snapshotter.v1"
    assert nix[-1] == "ok"
    errors = [line for line in lines if line.endswith("error")]
    assert not [line for line in errors if "transfer" in line or "cri" in line], errors


def test_where_there_was_no_configuration(host: Node, version: Version, tmp_path: Path) -> None:
    found = dump(host, tmp_path)
    assert found["proxy_plugins"]["nix"]["address"] == fragments.Settings().address
    assert cri(found, version)["snapshotter"] == "nix"
    assert cri(found, version)["disable_snapshot_annotations"] is False
    if version != "1.6":
        entries = plugin(found, "io.containerd.transfer.v1.local")["unpack_config"]
        assert [entry["snapshotter"] for entry in entries] == ["overlayfs", "nix"]
        assert found["proxy_plugins"]["nix"]["exports"]["root"] == fragments.Settings().root


def test_beside_the_configuration_of_a_package(
    host: Node, version: Version, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "stock"
    main = folder / "etc/containerd/config.toml"
    main.parent.mkdir(parents=True)
    main.write_text(STOCK)
    assert installed(folder, version) == 1
    assert main.read_text() == STOCK
    said = capsys.readouterr().err
    assert f'add "{install.CONTAINERD_FRAGMENT}" to `imports`' in said
    # What it says has to be done, done.
    text = STOCK.replace("\n[plugins]", f'imports = ["{install.CONTAINERD_FRAGMENT}"]\n[plugins]')
    if version == "1.6":
        text += said.partition("say in its table\n")[2].partition("to do")[0]
    main.write_text(text)
    assert installed(folder, version) == 0
    found = dump(host, folder)
    assert cri(found, version)["snapshotter"] == "nix"
    assert cri(found, version)["disable_snapshot_annotations"] is False
    # And nothing that the package had said is lost.
    assert plugin(found, "io.containerd.internal.v1.opt")["path"] == "/var/lib/containerd/opt"
    if version == "1.6":
        assert plugin(found, "io.containerd.grpc.v1.cri")["cni"]["bin_dir"] == "/usr/lib/cni"
    else:
        assert plugin(found, "io.containerd.cri.v1.runtime")["cni"]["bin_dirs"] == ["/usr/lib/cni"]


def test_the_doctor_knows_it(host: Node, version: Version) -> None:
    settings = fragments.Settings(root=str(host.folder), address=str(host.folder / "none.sock"))
    checks = {check.name: check for check in doctor.examine(settings, containerd=str(host.socket))}
    assert checks["overlayfs"].state == "ok"
    assert checks["containerd"].state == "ok"
    assert ("lower" if version == "1.6" else "target") in checks["containerd"].found
    assert checks["plugin"].state == "ok"
    assert checks["daemon"].state == "fail"
    configuration = tomllib.loads(
        host.run("containerd", "--config", host.folder / "config.toml", "config", "dump").out
    )
    numbers = (1, 6, 20) if version == "1.6" else (2, 1, 9)
    told = {check.name: check for check in doctor.configured("nix", numbers, configuration)}
    assert {check.state for check in told.values()} == {"ok"}
    assert ("unpack_config" in told) == (version != "1.6")


def test_a_configuration_without_us_is_found_wanting(version: Version) -> None:
    with scratch() as folder, node(version, folder) as host:
        settings = fragments.Settings(root=str(host.folder), address=str(host.folder / "none.sock"))
        checks = {
            check.name: check for check in doctor.examine(settings, containerd=str(host.socket))
        }
        assert checks["plugin"].state == "fail"
        configuration = tomllib.loads(
            host.run("containerd", "--config", host.folder / "config.toml", "config", "dump").out
        )
    numbers = (1, 6, 20) if version == "1.6" else (2, 1, 9)
    told = {check.name: check for check in doctor.configured("nix", numbers, configuration)}
    assert told["Kubernetes"].state == "warn"
    assert told["annotations"].state == "warn"
    if version != "1.6":
        assert told["unpack_config"].state == "fail"


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze here")
    command = shutil.which("true") or "/bin/true"
    assert install.run(arguments("--systemd", "--destination", tmp_path, "--command", command)) == 0
    files = [tmp_path / f"etc/systemd/system/{name}" for name in (units.SERVICE, units.SOCKET)]
    done = subprocess.run(
        [analyze, "verify", "--man=no", *files], capture_output=True, check=False, text=True
    )
    ours = [line for line in done.stderr.splitlines() if "nixfetch" in line]
    assert not ours, done.stderr
