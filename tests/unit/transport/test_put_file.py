from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nixfetch.transport.put_file import STAGING, CannotWriteError, FileSink

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[FileSink]:
    sink = FileSink(tmp_path / "mirror")
    yield sink
    sink.close()


def test_nothing_is_left_beside_the_objects(sink: FileSink, tmp_path: Path) -> None:
    sink.put("nar/one", b"1")
    sink.close()
    found = sorted(str(path.relative_to(tmp_path / "mirror")) for path in tmp_path.rglob("*/*"))
    assert found == ["nar", "nar/one"]


def test_what_a_killed_run_left_is_swept(tmp_path: Path) -> None:
    staging = tmp_path / STAGING
    staging.mkdir()
    (staging / "dead").write_bytes(b"half")
    alive = os.open(staging / "alive", os.O_CREAT | os.O_RDWR)
    fcntl.flock(alive, fcntl.LOCK_EX)
    sink = FileSink(tmp_path)
    sink.put("one", b"1")
    assert [file.name for file in staging.iterdir()] == ["alive"]
    os.close(alive)
    sink.close()
    assert staging.is_dir()  # it is not ours alone


def test_staging_may_go_at_any_time(tmp_path: Path) -> None:
    one, other = FileSink(tmp_path), FileSink(tmp_path)
    one.put("one", b"1")
    other.put("two", b"2")
    other.close()
    assert not (tmp_path / STAGING).exists()
    one.put("three", b"3")
    one.close()


def test_a_directory_is_no_object(sink: FileSink, tmp_path: Path) -> None:
    (tmp_path / "mirror/nar").mkdir(parents=True)
    assert sink.size("nar") is None
    assert list(sink.entries()) == []
    (tmp_path / "mirror/file").write_bytes(b"")
    assert sink.size("file/below") is None
    assert list(sink.entries("file")) == []


def test_a_disk_that_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    sink = FileSink(tmp_path / "file")
    with pytest.raises(CannotWriteError, match="cannot write to the mirror") as caught:
        sink.put("one", b"1")
    assert caught.value.facts["errno"] == "ENOTDIR"
    assert caught.value.exit_code == 6
    full = FileSink(Path("/dev/full"))
    with pytest.raises(CannotWriteError):
        full.put("one", b"1")


def test_objects_may_be_read_by_all(sink: FileSink, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        sink.put("one", b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "mirror/one").stat().st_mode & 0o777 == 0o644


def test_nothing_is_deleted_behind_a_link(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious").write_bytes(b"p")
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for name in (STAGING, "nar"):
        (mirror / name).symlink_to(other)
    sink = FileSink(mirror)
    with pytest.raises(CannotWriteError):
        sink.put("one", b"1")
    with pytest.raises(CannotWriteError):
        sink.delete(["nar/precious"])
    assert (other / "precious").read_bytes() == b"p"
