from __future__ import annotations

import tomllib
from typing import Any

import pytest

from snapshotter.fragments import (
    MARK,
    Settings,
    containerd_fragment,
    containerd_main,
    k3s_settings,
    k3s_template,
    main_lines,
    quoted,
)

OLD, MIDDLE, NEW = (1, 6, 20), (1, 7, 24), (2, 1, 9)
CRI = "io.containerd.grpc.v1.cri"
IMAGES = "io.containerd.cri.v1.images"
TRANSFER = "io.containerd.transfer.v1.local"
MAIN = {"plugins": {CRI: {"sandbox_image": "example.test/pause:1"}}}


def fragment(version: tuple[int, int, int], **more: Any) -> dict[str, Any]:
    return tomllib.loads(containerd_fragment(Settings(), version, **more))


@pytest.mark.parametrize("version", [OLD, MIDDLE, NEW])
def test_every_containerd_is_told_of_the_plugin(version: tuple[int, int, int]) -> None:
    found = fragment(version)["proxy_plugins"]["nix"]
    assert found["type"] == "snapshot"
    assert found["address"] == "/run/nixfetch-snapshotter/snapshotter.sock"


def test_old_ones_are_not_told_what_they_do_not_know() -> None:
    found = fragment(OLD)
    assert found["version"] == 2
    assert set(found["proxy_plugins"]["nix"]) == {"type", "address"}
    assert set(found["plugins"]) == {CRI}
    assert found["plugins"][CRI]["containerd"] == {
        "snapshotter": "nix",
        "disable_snapshot_annotations": False,
    }


def test_new_ones_are_told_in_their_own_names_and_without_a_version() -> None:
    found = fragment(NEW)
    assert "version" not in found
    assert set(found["plugins"]) == {IMAGES, TRANSFER}
    assert found["plugins"][IMAGES] == {"snapshotter": "nix", "disable_snapshot_annotations": False}
    assert found["proxy_plugins"]["nix"]["platform"] == "linux/amd64"
    assert found["proxy_plugins"]["nix"]["exports"] == {
        "root": "/var/lib/nixfetch-snapshotter",
        "enable_remote_snapshot_annotations": "true",
    }


@pytest.mark.parametrize("version", [MIDDLE, NEW])
def test_the_transfer_service_goes_on_unpacking_for_overlayfs(
    version: tuple[int, int, int],
) -> None:
    assert fragment(version)["plugins"][TRANSFER]["unpack_config"] == [
        {"platform": "linux/amd64", "snapshotter": "overlayfs"},
        {"platform": "linux/amd64", "snapshotter": "nix"},
    ]


def test_what_the_main_file_unpacks_for_is_kept() -> None:
    kept = {
        "platform": "linux/amd64",
        "snapshotter": "stargz",
        "layer_types": ["a", 'b"'],
        "limit": 1,
        "on": True,
    }
    main = {"plugins": {TRANSFER: {"unpack_config": [kept]}}}
    entries = fragment(NEW, main=main)["plugins"][TRANSFER]["unpack_config"]
    assert entries == [kept, {"platform": "linux/amd64", "snapshotter": "nix"}]


def test_what_is_there_already_is_not_repeated() -> None:
    ours = {"platform": "linux/amd64", "snapshotter": "nix", "differ": "walking"}
    main = {"plugins": {TRANSFER: {"unpack_config": [ours]}}}
    assert fragment(NEW, main=main)["plugins"][TRANSFER]["unpack_config"] == [ours]


@pytest.mark.parametrize("version", [OLD, MIDDLE])
def test_a_main_file_that_speaks_of_cri_is_not_overruled(version: tuple[int, int, int]) -> None:
    assert CRI not in fragment(version, main=MAIN).get("plugins", {})
    lines = main_lines(Settings(), version, MAIN)
    assert lines is not None
    assert tomllib.loads(lines)["plugins"][CRI]["containerd"]["snapshotter"] == "nix"


def test_a_main_file_that_says_it_all_needs_no_lines() -> None:
    told = {"snapshotter": "nix", "disable_snapshot_annotations": False, "more": 1}
    assert main_lines(Settings(), OLD, {"plugins": {CRI: {"containerd": told}}}) is None


@pytest.mark.parametrize(
    "main",
    [
        {"plugins": {CRI: {"containerd": {"snapshotter": "nix"}}}},
        {
            "plugins": {
                CRI: {"containerd": {"snapshotter": "nix", "disable_snapshot_annotations": True}}
            }
        },
    ],
)
def test_one_that_says_half_of_it_does(main: dict[str, Any]) -> None:
    assert main_lines(Settings(), OLD, main) is not None


def test_new_ones_need_no_lines() -> None:
    assert main_lines(Settings(), NEW, MAIN) is None
    assert IMAGES in fragment(NEW, main=MAIN)["plugins"]


@pytest.mark.parametrize("version", [OLD, NEW])
def test_kubernetes_may_keep_what_it_has(version: tuple[int, int, int]) -> None:
    settings = Settings(cri=False)
    found = tomllib.loads(containerd_fragment(settings, version))
    assert not {CRI, IMAGES} & set(found.get("plugins", {}))
    assert "nix" in found["proxy_plugins"]
    assert main_lines(settings, version, MAIN) is None


@pytest.mark.parametrize("main", [{"plugins": 1}, {"plugins": {CRI: 1, TRANSFER: []}}, {}])
def test_a_main_file_may_hold_anything(main: dict[str, Any]) -> None:
    for version in (OLD, NEW):
        assert fragment(version, main=main)


def test_a_new_main_file_imports_and_says_nothing_else() -> None:
    found = tomllib.loads(containerd_main("/etc/x.toml"))
    assert found == {"version": 2, "imports": ["/etc/x.toml"]}


@pytest.mark.parametrize("version", [MIDDLE, NEW])
def test_k3s_keeps_its_own_template(version: tuple[int, int, int]) -> None:
    text = k3s_template(Settings(name="nixfetch"), version)
    head, base, rest = text.split("\n", 2)
    assert MARK in head
    assert head.startswith("{{- /*")
    assert base == '{{ template "base" . }}'
    found = tomllib.loads(rest)
    # Tables that the base template has already would be there twice.
    assert not {CRI, IMAGES} & set(found["plugins"])
    assert "version" not in found
    assert found["proxy_plugins"]["nixfetch"]["type"] == "snapshot"
    assert ("exports" in found["proxy_plugins"]["nixfetch"]) == (version == NEW)
    assert found["plugins"][TRANSFER]["unpack_config"][-1]["snapshotter"] == "nixfetch"


def test_k3s_chooses_by_its_own_setting() -> None:
    assert k3s_settings(Settings(name="a")).splitlines()[1:] == ['snapshotter: "a"']


@pytest.mark.parametrize("text", ['"', "\\", "a\nb", "\x7f", "\0", "ü€😀", "'", ""])
def test_any_text_is_a_toml_string(text: str) -> None:
    assert tomllib.loads(f"a = {quoted(text)}") == {"a": text}


def test_each_file_says_that_it_is_ours() -> None:
    for text in (
        containerd_fragment(Settings(), NEW),
        containerd_main("/x"),
        k3s_template(Settings(), NEW),
        k3s_settings(Settings()),
    ):
        assert MARK in text.splitlines()[0]
