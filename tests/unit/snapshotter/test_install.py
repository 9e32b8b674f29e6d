from __future__ import annotations

import argparse
import stat
from typing import TYPE_CHECKING

import pytest

from snapshotter import install
from snapshotter.errors import InvalidArgumentError, PreconditionError, UnavailableError
from snapshotter.fragments import MARK, File, Settings
from snapshotter.install import Plan, containerd_version, for_containerd, is_ours, write

if TYPE_CHECKING:
    from pathlib import Path

FRAGMENT = "etc/containerd/conf.d/nixfetch.toml"
MAIN = "etc/containerd/config.toml"
NEW = (2, 1, 9)


def run(folder: Path, *words: str) -> int:
    parser = argparse.ArgumentParser()
    install.add_arguments(parser)
    return install.run(parser.parse_args([*words, "--destination", str(folder)]))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_all_of_it_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--containerd", "--k3s", "--systemd", "--containerd-version", "2.1")
    assert run(tmp_path, *words) == 0
    first = snapshot(tmp_path)
    assert set(first) == {
        FRAGMENT,
        MAIN,
        "etc/rancher/k3s/config.yaml.d/nixfetch.yaml",
        "etc/systemd/system/nixfetch-snapshotter.service",
        "etc/systemd/system/nixfetch-snapshotter.socket",
        "var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.tmpl",
        "var/lib/rancher/k3s/agent/etc/containerd/config.toml.tmpl",
    }
    assert all(MARK.encode() in content.splitlines()[0] for content in first.values())
    said = capsys.readouterr()
    assert said.out.count("written ") == 7
    assert "then: systemctl restart containerd" in said.err
    assert run(tmp_path, *words) == 0
    assert capsys.readouterr().out.count("unchanged ") == 7
    assert snapshot(tmp_path) == first


def test_a_dry_run_prints_what_would_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--containerd", "--systemd", "--containerd-version", "1.6")
    assert run(tmp_path, *words, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert not snapshot(tmp_path)
    run(tmp_path, *words)
    for name, content in snapshot(tmp_path).items():
        assert f"# /{name}\n{content.decode()}" in printed


def test_files_can_be_read_by_all_and_nothing_else_is_left(tmp_path: Path) -> None:
    run(tmp_path, "--containerd", "--containerd-version", "2.1")
    place = tmp_path / FRAGMENT
    assert stat.S_IMODE(place.stat().st_mode) == 0o644
    assert [entry.name for entry in place.parent.iterdir()] == [place.name]


def test_what_we_wrote_before_is_replaced(tmp_path: Path) -> None:
    run(tmp_path, "--containerd", "--containerd-version", "2.1")
    run(tmp_path, "--containerd", "--containerd-version", "2.1", "--name", "other")
    assert b'proxy_plugins."other"' in snapshot(tmp_path)[FRAGMENT]
    assert b'"nix"' not in snapshot(tmp_path)[FRAGMENT]


def test_what_others_wrote_is_not_and_then_nothing_is_written(tmp_path: Path) -> None:
    place = tmp_path / "etc/systemd/system/nixfetch-snapshotter.socket"
    place.parent.mkdir(parents=True)
    place.write_text("[Socket]\n")
    before = snapshot(tmp_path)
    with pytest.raises(PreconditionError, match="not ours to replace") as caught:
        run(tmp_path, "--systemd")
    assert caught.value.facts["file"] == place
    assert "--force" in (caught.value.hint or "")
    assert snapshot(tmp_path) == before
    assert run(tmp_path, "--systemd", "--force") == 0
    assert MARK in place.read_text()


def test_the_main_file_of_others_is_never_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = tmp_path / MAIN
    main.parent.mkdir(parents=True)
    main.write_text("version = 3\n")
    assert run(tmp_path, "--containerd", "--containerd-version", "2.1", "--force") == 1
    assert main.read_text() == "version = 3\n"
    assert "to do: /etc/containerd/config.toml: add" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("imports", "missing"),
    [
        ('["/etc/containerd/conf.d/*.toml"]', 0),
        ('["conf.d/*.toml"]', 0),
        ('["conf.d/nixfetch.toml"]', 0),
        ('["/etc/containerd/conf.d/nixfetch.toml", "x"]', 0),
        ('["/etc/other/*.toml"]', 1),
        ('["conf.d"]', 1),
        ("[]", 1),
        ('"conf.d/*.toml"', 1),
    ],
)
def test_whether_the_main_file_imports_ours(imports: str, missing: int) -> None:
    plan = Plan()
    for_containerd(Settings(), NEW, f"imports = {imports}".encode(), plan)
    assert len(plan.missing) == missing
    assert [file.path for file in plan.files] == [install.CONTAINERD_FRAGMENT]


@pytest.mark.parametrize("main", [b"[", b"\xff", b"a = "])
def test_a_main_file_that_is_not_toml(main: bytes) -> None:
    with pytest.raises(PreconditionError, match="not TOML"):
        for_containerd(Settings(), NEW, main, Plan())


def test_a_main_file_of_ours_is_remade() -> None:
    plan = Plan()
    for_containerd(Settings(), NEW, f"# {MARK}\n".encode(), plan)
    assert [file.path for file in plan.files] == [
        install.CONTAINERD_FRAGMENT,
        install.CONTAINERD_MAIN,
    ]
    assert not plan.missing


def test_k3s_gets_another_name_unless_one_is_given(tmp_path: Path) -> None:
    run(tmp_path, "--k3s")
    settings = tmp_path / "etc/rancher/k3s/config.yaml.d/nixfetch.yaml"
    assert 'snapshotter: "nixfetch"' in settings.read_text()
    run(tmp_path, "--k3s", "--name", "mine")
    assert 'snapshotter: "mine"' in settings.read_text()


@pytest.mark.parametrize(
    ("words", "containerd"),
    [
        (("--systemd",), None),
        (("--systemd", "--k3s"), install.K3S_CONTAINERD),
        (("--systemd", "--k3s", "--containerd", "--containerd-version=2.1"), None),
        (("--systemd", "--k3s", "--containerd-address=/x.sock"), "/x.sock"),
    ],
)
def test_which_containerd_the_daemon_asks(
    tmp_path: Path, words: tuple[str, ...], containerd: str | None
) -> None:
    run(tmp_path, *words)
    unit = (tmp_path / "etc/systemd/system/nixfetch-snapshotter.service").read_text()
    told = f" --containerd-address {containerd}\n"
    assert (told in unit) if containerd else ("--containerd-address" not in unit)


def test_programs_for_nix_snapshotter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--shim", "/opt/shim")
    assert run(tmp_path, *words) == 0
    programs = sorted((tmp_path / "opt/shim").iterdir())
    assert [program.name for program in programs] == ["external-builder", "nix-store"]
    assert {stat.S_IMODE(program.stat().st_mode) for program in programs} == {0o755}
    assert "/opt/shim" in capsys.readouterr().err
    programs[0].chmod(0o644)
    run(tmp_path, *words)
    assert stat.S_IMODE(programs[0].stat().st_mode) == 0o755
    assert "written /opt/shim/external-builder" in capsys.readouterr().out.splitlines()
    programs[1].write_text("#!/bin/sh\n# of somebody else\n")
    with pytest.raises(PreconditionError, match="not ours"):
        run(tmp_path, *words)


def test_where_a_mark_counts() -> None:
    assert is_ours(f"# {MARK}\n".encode())
    assert is_ours(f"#!/bin/sh\n\n\n# {MARK}\n".encode())
    assert not is_ours(f"#!/bin/sh\n\n\n\n# {MARK}\n".encode())
    assert not is_ours(f"a = 1\n# {MARK}\n".encode())
    assert not is_ours(b"")


def test_a_relative_place_for_them(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="absolute"):
        run(tmp_path, "--shim", "shim")


def test_nothing_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="nothing to set up"):
        run(tmp_path)


@pytest.mark.parametrize("name", ["a b", "-a", "a/b", "ä", "{{", "a" * 65, "a.", '"'])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot be the name"):
        run(tmp_path, "--systemd", f"--name={name}")


@pytest.mark.parametrize("flag", ["--address", "--root", "--store", "--containerd-address"])
@pytest.mark.parametrize("path", ["relative", "./a", "/a\nb"])
def test_paths_that_are_none(tmp_path: Path, flag: str, path: str) -> None:
    with pytest.raises(InvalidArgumentError, match="has to be absolute"):
        run(tmp_path, "--containerd", f"{flag}={path}")


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("a file")
    with pytest.raises(PreconditionError, match="cannot read a configuration file"):
        list(write([File("/etc/x/y", "")], top=tmp_path, force=False))
    assert snapshot(tmp_path) == {"etc": b"a file"}


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    place = tmp_path / "x"
    with place.open("wb") as file:
        file.truncate(install.MAX_CONFIGURATION + 1)
    with pytest.raises(PreconditionError, match="too large"):
        list(write([File("/x", "")], top=tmp_path, force=False))


@pytest.mark.parametrize(
    ("said", "version"),
    [("2", None), ("2.1", (2, 1, 0)), ("1.7.24", (1, 7, 24)), ("v2.0.1", (2, 0, 1)), ("x", None)],
)
def test_versions_that_users_say(said: str, version: tuple[int, int, int] | None) -> None:
    if version is None:
        with pytest.raises(InvalidArgumentError, match="no version"):
            containerd_version(said, command=("false",))
    else:
        assert containerd_version(said, command=("false",)) == version


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", (1, 6, 20)),
        ("containerd github.com/containerd/containerd/v2 2.1.9+unknown ", (2, 1, 9)),
        ("containerd containerd.io 1.7.24 88bf19b2105c8b17560993bee28a01ddc2f97182", (1, 7, 24)),
        ("containerd github.com/k3s-io/containerd v2.0.2-k3s2 ", (2, 0, 2)),
    ],
)
def test_versions_that_containerd_says(text: str, version: tuple[int, int, int]) -> None:
    assert containerd_version(None, command=("echo", text)) == version


@pytest.mark.parametrize("command", [("false",), ("nixfetch-no-such-program",), ("echo", "no")])
def test_no_containerd_to_ask(command: tuple[str, ...]) -> None:
    with pytest.raises(UnavailableError, match="cannot tell") as caught:
        containerd_version(None, command=command)
    assert "--containerd-version" in (caught.value.hint or "")


def test_the_settings_reach_the_files(tmp_path: Path) -> None:
    run(tmp_path, "--systemd", "--containerd", "--containerd-version=2.1", "--address=/x/y.sock")
    for content in (snapshot(tmp_path)[FRAGMENT], *snapshot(tmp_path).values()):
        if b"version = 2\nimports" not in content:
            assert b"/x/y.sock" in content
