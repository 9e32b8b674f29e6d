from __future__ import annotations

import argparse
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from image_files import Made, laid, layout, tarred
from snapshotter import image_cli
from snapshotter.errors import UnavailableError
from snapshotter.image import archive, locations
from snapshotter.image.locations import Access, PlaceError
from snapshotter.image.machine import machine
from snapshotter.oci.digests import ImageError
from store_of_images import INFO, LIBC, SERVER, Grown, planted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from snapshotter.image.locations import Loader
    from snapshotter.oci.image import Image


@pytest.fixture(scope="module")
def garden(tmp_path_factory: pytest.TempPathFactory) -> Grown:
    return planted(tmp_path_factory.mktemp("store"))


@dataclass(slots=True)
class Containerd:
    """What was loaded: namespace, reference, ID."""

    loaded: list[tuple[str, str, str]] = field(default_factory=list)

    def load(self, image: Image, *, namespace: str, reference: str) -> str:
        self.loaded.append((namespace, reference, image.id))
        return image.id

    @contextmanager
    def connect(self, address: Path, snapshotter: str) -> Iterator[Loader]:
        assert (str(address), snapshotter) == ("/run/c.sock", "nix")
        yield self


def run(store: Grown, *words: object, containerd: Containerd | None = None) -> int:
    parser = argparse.ArgumentParser()
    image_cli.add_arguments(parser)
    args = parser.parse_args([str(word) for word in words])
    return image_cli.run(
        args,
        environ={"NIXFETCH_STORE": str(store.root), "HOME": "/nonexistent"},
        containerd=None if containerd is None else containerd.connect,
    )


def test_an_image_is_built_with_all_that_is_said(
    garden: Grown, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "image.tar"
    base = laid(layout(Made(), names=["a.test/base:1"]), tmp_path / "base")
    code = run(
        garden, "build", SERVER, "--to", file, "--entrypoint", f"{SERVER}/bin/server",
        "--entrypoint=--port", "--cmd", "80", "--env", "B=2=3", "--user", "1:1",
        "--workdir", "/srv", "--label", "a=b", "--copy-to-root", LIBC.base, "--closure", INFO,
        "--from-image", f"oci:{base}", "--name", "a.test/b", "--compression", "none",
    )  # fmt: skip
    assert code == 0
    with archive.opening(file) as image:
        assert capsys.readouterr().out == f"{image.descriptor.digest}\n"
        process = image.config.process
        assert process.entrypoint == (f"{SERVER}/bin/server", "--port")
        assert process.command == ("80",)
        assert process.environment == ("A=1", "B=2=3")
        assert (process.user, process.working_directory) == ("1:1", "/srv")
        assert process.labels == {"a": "b"}
        assert image.name == "a.test/b:latest"
        assert str(image.config.platform) == "linux/amd64"
        assert [layer.media_type.rpartition(".")[2] for layer in image.manifest.layers] == [
            "tar+gzip", "tar", "tar",
        ]  # fmt: skip


def test_what_was_built_is_said_in_json(
    garden: Grown, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "image.tar"
    run(garden, "build", SERVER, LIBC, "--to", file, "--json", "--users")
    document = json.loads(capsys.readouterr().out)
    assert document["to"] == str(file)
    assert document["name"] is None
    assert [layer["how"] for layer in document["layers"]] == [None, None]


def test_what_is_in_an_image(
    garden: Grown, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tarred(layout(Made(words=["a b", "\x1b[31m"]), names=["v1"]), tmp_path / "image.tar")
    run(garden, "inspect", file, "--check")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "name         v1"
    assert "command      'a b' \"\\u001b[31m\"" in lines
    assert lines[-1] == "checked      all layers are what they should be"
    run(garden, "inspect", file, "--json")
    document = json.loads(capsys.readouterr().out)
    assert (document["platform"], document["checked"]) == ("linux/amd64", False)
    assert document["layers"][0]["diff_id"].startswith("sha256:")


def test_a_store_path_as_an_image(garden: Grown, capsys: pytest.CaptureFixture[str]) -> None:
    run(garden, "ref", SERVER, LIBC.base)
    server, libc = capsys.readouterr().out.splitlines()
    assert (server, libc) == (f"nix:0{SERVER}:latest", f"nix:0{LIBC}:latest")
    run(garden, "inspect", server, "--check")
    assert "2 store paths" in capsys.readouterr().out


def test_a_damaged_layer_is_seen_when_it_is_looked_at(garden: Grown, tmp_path: Path) -> None:
    file = tarred(layout(Made(diff_id="sha256:" + "0" * 64)), tmp_path / "image.tar")
    run(garden, "inspect", file)
    with pytest.raises(ImageError, match="another content"):
        run(garden, "inspect", file, "--check")


def test_an_image_for_containerd(garden: Grown, tmp_path: Path) -> None:
    containerd = Containerd()
    file = tarred(layout(Made()), tmp_path / "image.tar")
    address = ("--address", "/run/c.sock")
    run(garden, "load", file, "containerd://k8s.io/a.test/b:1", *address, containerd=containerd)
    run(
        garden, "build", SERVER, "--to", "containerd://default/a.test/c:1", *address,
        containerd=containerd,
    )  # fmt: skip
    assert [each[:2] for each in containerd.loaded] == [
        ("k8s.io", "a.test/b:1"), ("default", "a.test/c:1"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["build", "nonsense", "--to", "x.tar"], "not a store path"),
        (["build", SERVER, "--to", "ftp://x"], "not a place for an image"),
        (["build", SERVER, "--to", "oci:"], "not a place for an image"),
        (["build", SERVER, "--to", f"nix:0{SERVER}"], "not a place for an image"),
        (["build", SERVER, "--to", "containerd://x"], "not a place in containerd"),
        (["build", SERVER, "--to", "x.tar", "--env", "A"], "not NAME=VALUE"),
        (["push", "x.tar", "y.tar"], "`image push` goes to docker://…"),
        (["load", "x.tar", "docker://a/b"], "`image load` goes to containerd://…"),
    ],
)
def test_what_makes_no_sense(words: list[object], problem: str, garden: Grown) -> None:
    with pytest.raises(PlaceError) as caught:
        run(garden, *words)
    assert (caught.value.problem, caught.value.exit_code) == (problem, 2)


def test_without_a_client_nothing_is_loaded() -> None:
    with pytest.raises(UnavailableError, match="no client for containerd") as caught:
        locations.check("containerd://default/a.test/b:1", Access())
    assert "images import" in str(caught.value.hint)
    with (
        pytest.raises(PlaceError, match="no store to take it from"),
        locations.opening(f"nix:0{SERVER}", Access(), platform=None, machine=machine()),
    ):
        pass


def test_this_machine_is_of_some_kind() -> None:
    assert machine().os == "linux"
    assert machine().runs(machine())
