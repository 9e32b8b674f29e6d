"""The table of settings that the image service has."""

from __future__ import annotations

from pathlib import Path

import pytest

from snapshotter import config
from snapshotter.config import ImageService, SettingsError


def load(tmp_path: Path, text: str) -> ImageService:
    file = tmp_path / "snapshotter.toml"
    file.write_text(text)
    return config.load({}, file).image_service


def test_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == load(tmp_path, "[image-service]") == ImageService()
    assert ImageService().enable


@pytest.mark.parametrize(
    "text",
    [
        "[image-service]\nenable = false\ncontainerd-address = '/c.sock'\n",
        # As nix-snapshotter has it.
        "[image_service]\nenable = false\ncontainerd_address = '/c.sock'\n",
        "image-service = { enable = false, containerd-address = '/c.sock' }",
    ],
)
def test_both_spellings(text: str, tmp_path: Path) -> None:
    assert load(tmp_path, text) == ImageService(enable=False, containerd_address=Path("/c.sock"))


def test_names(tmp_path: Path) -> None:
    text = "[image-service]\nnamespace = 'my.k8s-2'\nsnapshotter = 'nixfetch'\n"
    assert load(tmp_path, text) == ImageService(namespace="my.k8s-2", snapshotter="nixfetch")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("image-service = 1", "a table"),
        ("[image-service]\nenable = 1", "true or false as enable"),
        ("[image-service]\ncontainerd-address = 'relative'", "as containerd-address"),
        ("[image-service]\nnamespace = ''", "as namespace"),
        ("[image-service]\nnamespace = 'a/b'", "as namespace"),
        ("[image-service]\nnamespace = '../x'", "as namespace"),
        (f"[image-service]\nsnapshotter = '{'a' * 77}'", "as snapshotter"),
    ],
)
def test_values_that_cannot_be(text: str, wanted: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=wanted) as caught:
        load(tmp_path, text)
    assert caught.value.facts["setting"] == "image-service"
    assert caught.value.facts["file"] == tmp_path / "snapshotter.toml"


def test_an_unknown_key(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown key") as caught:
        load(tmp_path, "[image-service]\nenabled = true")
    assert caught.value.hint == "did you mean enable?"
