from __future__ import annotations

from pathlib import Path

import pytest

from snapshotter.errors import InvalidArgumentError
from snapshotter.mounts import Mount
from snapshotter.overlay import Overlay, check_directory

OVERLAY = Overlay(("index=off",))


def test_a_container_above_layers() -> None:
    assert OVERLAY.mount(["/b", "/a"], upper="/u", work="/w") == Mount(
        "overlay",
        "overlay",
        options=("workdir=/w", "upperdir=/u", "lowerdir=/b:/a", "index=off"),
    )


def test_layers_to_be_read() -> None:
    assert OVERLAY.mount(["/b", "/a"]) == Mount(
        "overlay", "overlay", options=("lowerdir=/b:/a", "index=off")
    )


def test_one_layer_alone_is_a_bind() -> None:
    assert OVERLAY.mount(["/a"]) == Mount("bind", "/a", options=("ro", "rbind"))
    assert OVERLAY.mount([], upper="/u", work="/w") == Mount("bind", "/u", options=("rw", "rbind"))


def test_what_this_machine_needs(tmp_path: Path) -> None:
    here, there = tmp_path / "uid_map", tmp_path / "missing"
    here.write_text("         0          0 4294967295\n")
    assert Overlay.of_this_machine(uid_map=here, index=here).options == ("index=off",)
    assert Overlay.of_this_machine(uid_map=here, index=there).options == ()
    assert Overlay.of_this_machine(uid_map=there, index=there).options == ()
    here.write_text("         0     100000      65536\n")
    assert Overlay.of_this_machine(uid_map=here, index=here).options == ("index=off", "userxattr")


@pytest.mark.parametrize("path", ["/a:b", "/a,b", "/a\\b"])
def test_directories_that_options_cannot_name(path: str) -> None:
    with pytest.raises(InvalidArgumentError):
        check_directory(Path(path))
    check_directory(Path("/a b=c"))
