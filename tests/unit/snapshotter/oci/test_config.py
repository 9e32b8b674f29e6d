from __future__ import annotations

import json

import pytest

from snapshotter.oci.config import EPOCH, ImageConfig, Process
from snapshotter.oci.digests import ImageError
from snapshotter.oci.model import Platform
from snapshotter.oci.reading import DocumentError

DIFF_ID = "sha256:" + "12" * 32
BASE = Process(
    entrypoint=("/bin/sh", "-c"),
    command=("echo",),
    environment=("PATH=/bin", "A=1"),
    user="1000",
    working_directory="/srv",
    labels={"a": "1", "b": "2"},
    other={"StopSignal": "SIGINT", "ExposedPorts": {"80/tcp": {}}},
)


def test_what_is_read_is_written() -> None:
    config = ImageConfig(
        platform=Platform("linux", "arm", "v7"),
        diff_ids=(DIFF_ID,),
        process=BASE,
        history=({"created_by": "x"}, {"empty_layer": True}),
    )
    again = ImageConfig.parse(config.json())
    assert again == config
    assert again.created == EPOCH
    assert again.history_fits
    assert json.loads(config.json())["config"]["StopSignal"] == "SIGINT"


def test_a_base_gives_what_is_not_said() -> None:
    ours = Process(environment=("B=2", "PATH=/nix"), labels={"b": "3"}, user="0")
    assert ours.over(BASE) == Process(
        entrypoint=("/bin/sh", "-c"),
        command=("echo",),
        environment=("PATH=/nix", "A=1", "B=2"),
        user="0",
        working_directory="/srv",
        labels={"a": "1", "b": "3"},
        other=BASE.other,
    )


def test_a_new_entrypoint_drops_the_command_of_the_base() -> None:
    assert Process(entrypoint=("/x",)).over(BASE).command == ()
    assert Process(entrypoint=("/x",), command=("y",)).over(BASE).command == ("y",)
    assert Process(command=("y",)).over(BASE).entrypoint == ("/bin/sh", "-c")


def test_a_history_of_other_layers_does_not_fit() -> None:
    platform = Platform("linux", "amd64")
    assert not ImageConfig(platform=platform, diff_ids=(DIFF_ID,)).history_fits
    empty = ({"empty_layer": True},)
    assert not ImageConfig(platform=platform, diff_ids=(DIFF_ID,), history=empty).history_fits


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"rootfs": {"type": "zip"}},
        {"rootfs": {"diff_ids": "x"}},
        {"rootfs": {"diff_ids": ["x"]}},
        {"rootfs": {"diff_ids": [DIFF_ID] * 200}},
        {"rootfs": {}, "config": 7},
        {"rootfs": {}, "config": {"Env": [1]}},
        {"rootfs": {}, "config": {"Cmd": "echo"}},
        {"rootfs": {}, "os": 7},
        {"rootfs": {}, "history": [7]},
    ],
)
def test_what_is_no_configuration(document: object) -> None:
    with pytest.raises(ImageError) as caught:
        ImageConfig.parse(json.dumps(document).encode())
    assert caught.value.exit_code == 4


def test_null_is_nothing() -> None:
    """As Docker writes it."""
    data = {"rootfs": {"type": "layers", "diff_ids": None}, "config": {"Env": None, "User": None}}
    assert ImageConfig.parse(json.dumps(data).encode()).process == Process()
    with pytest.raises(DocumentError):
        ImageConfig.parse(b"null")
