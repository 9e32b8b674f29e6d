from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from nixfetch import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_syncfs_takes_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        kernel.syncfs(fd)
    finally:
        os.close(fd)


def test_syncfs_says_why_not() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        kernel.syncfs(-1)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_rename_noreplace(tmp_path: Path, here: int) -> None:
    (tmp_path / "a").write_bytes(b"a")
    kernel.rename_noreplace(b"a", b"b\xff", src_dir_fd=here, dst_dir_fd=here)
    assert [os.fsencode(entry.name) for entry in tmp_path.iterdir()] == [b"b\xff"]
    (tmp_path / "c").mkdir()
    with pytest.raises(FileExistsError):
        kernel.rename_noreplace(b"b\xff", b"c", src_dir_fd=here, dst_dir_fd=here)
    with pytest.raises(FileNotFoundError):
        kernel.rename_noreplace(b"a", b"d", src_dir_fd=here, dst_dir_fd=here)


def test_rename_exchange(tmp_path: Path, here: int) -> None:
    (tmp_path / "a").write_bytes(b"file")
    (tmp_path / "b").mkdir()
    kernel.rename_exchange(b"a", b"b", dir_fd=here)
    assert (tmp_path / "a").is_dir()
    assert (tmp_path / "b").read_bytes() == b"file"
    with pytest.raises(FileNotFoundError):
        kernel.rename_exchange(b"a", b"c", dir_fd=here)


def test_a_rename_that_is_not_known_here(tmp_path: Path, here: int) -> None:
    """Both flags at once: no kernel takes that."""
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(kernel.UnsupportedError) as caught:
        kernel._renameat2(here, b"a", here, b"b", 3)
    assert caught.value.errno == errno.EINVAL
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_mounts_that_cannot_be_name_their_place() -> None:
    with pytest.raises(OSError, match="/nowhere") as caught:
        kernel.mount(b"/nowhere", b"/nowhere", kernel.MountFlag.BIND)
    assert caught.value.filename == "/nowhere"
    with pytest.raises(OSError, match="/nowhere"):
        kernel.unmount(b"/nowhere")


def test_a_namespace_that_the_kernel_does_not_know() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        kernel.unshare(kernel.Namespace(1))


def test_a_root_directory_that_is_no_mount(tmp_path: Path) -> None:
    """EINVAL for root; others are told first that they may not."""
    with pytest.raises(OSError, match=str(tmp_path)) as caught:
        kernel.pivot_root(bytes(tmp_path), bytes(tmp_path))
    assert isinstance(caught.value, kernel.UnsupportedError) == (caught.value.errno == errno.EINVAL)
