from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from garden import Garden
from nixfetch.store import LocalStore
from nixfetch.store.disk import DiskError
from nixfetch.store.dump import UnsupportedFileError
from nixfetch.store.linktree import link_tree
from trees import File, Tree, generated, nested, plant
from trees import Link as Symlink
from unit.store.disk_trees import descriptors, directory, entries

if TYPE_CHECKING:
    from pathlib import Path

    from nixfetch.store.linktree import Link

SAMPLE: Tree = {
    b"bin": {b"run": File(b"#!", executable=True), b"to": Symlink(b"run")},
    b"empty": {},
    b"file": File(b"data"),
    b"gone": Symlink(b"/nowhere"),
}


def settle(path: Path, mode: int = 0o555) -> None:
    """Modes and times as a store has them."""
    for parent, directories, files in os.walk(path, topdown=False):
        for name in (*files, *directories):
            file = os.path.join(parent, name)  # noqa: PTH118 - odd names
            if not os.path.islink(file) and os.path.isfile(file):  # noqa: PTH113, PTH114
                os.chmod(file, os.stat(file).st_mode & 0o555)  # noqa: PTH101, PTH116
            os.utime(file, ns=(10**9, 10**9), follow_symlinks=False)
        os.chmod(parent, mode)  # noqa: PTH101
        os.utime(parent, ns=(10**9, 10**9))


def facts(path: Path) -> dict[str, tuple[int, int, int]]:
    """What a reader sees of each file: mode, size and time."""
    found = {}
    for parent, directories, files in os.walk(path):
        for name in (".", *directories, *files):
            file = os.path.join(parent, name)  # noqa: PTH118
            status = os.lstat(file)
            size = 0 if os.path.isdir(file) and not os.path.islink(file) else status.st_size  # noqa: PTH112, PTH114
            found[os.path.relpath(file, path)] = (status.st_mode, size, status.st_mtime_ns)
    return found


def twin(source: Path, target: Path, **how: Link) -> Path:
    target.mkdir(exist_ok=True)
    with directory(source.parent) as from_fd, directory(target) as to_fd:
        link_tree(os.fsencode(source.name), from_fd, to_fd, **how)
    return target / source.name


def test_it_shows_the_same_and_shares_its_files(tmp_path: Path) -> None:
    plant(SAMPLE, tmp_path / "tree")
    settle(tmp_path / "tree")
    before = facts(tmp_path / "tree")
    made = twin(tmp_path / "tree", tmp_path / "farm")
    assert facts(made) == facts(tmp_path / "tree") == before
    for name in ("bin/run", "bin/to", "file", "gone"):
        assert (made / name).lstat().st_ino == (tmp_path / "tree" / name).lstat().st_ino
    assert made.stat().st_ino != (tmp_path / "tree").stat().st_ino


@pytest.mark.parametrize("seed", range(12))
def test_odd_trees(tmp_path: Path, seed: int) -> None:
    plant(generated(seed), tmp_path / "tree")
    before = descriptors()
    made = twin(tmp_path / "tree", tmp_path / "farm")
    if made.is_dir() and not made.is_symlink():
        assert facts(made) == facts(tmp_path / "tree")
    else:
        assert made.lstat().st_ino == (tmp_path / "tree").lstat().st_ino
    assert descriptors() == before


def test_deep_ones_need_few_descriptors(tmp_path: Path) -> None:
    plant(nested(100, File(b"leaf")), tmp_path / "tree")
    assert (twin(tmp_path / "tree", tmp_path / "farm") / "/".join("d" * 100)).read_text() == "leaf"


def refusing(number: int) -> Link:
    def link(_name: bytes, _from: int, _to: int) -> None:
        raise OSError(number, os.strerror(number))

    return link


def test_a_file_with_too_many_names_is_copied(tmp_path: Path) -> None:
    plant(SAMPLE, tmp_path / "tree")
    settle(tmp_path / "tree")
    made = twin(tmp_path / "tree", tmp_path / "farm", link=refusing(errno.EMLINK))
    assert facts(made) == facts(tmp_path / "tree")
    assert (made / "file").read_text() == "data"
    assert (made / "gone").readlink() == (tmp_path / "tree/gone").readlink()
    assert (made / "file").stat().st_ino != (tmp_path / "tree/file").stat().st_ino


def test_a_link_that_cannot_be_linked_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "tree").symlink_to("anywhere")
    made = twin(tmp_path / "tree", tmp_path / "farm", link=refusing(errno.EPERM))
    assert os.readlink(made) == "anywhere"  # noqa: PTH115


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.ENOSPC])
def test_what_else_is_refused_is_said(tmp_path: Path, number: int) -> None:
    plant(File(b"data"), tmp_path / "tree")
    with pytest.raises(OSError, match=os.strerror(number)):
        twin(tmp_path / "tree", tmp_path / "farm", link=refusing(number))


def test_no_link_is_made_to_a_device_or_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    os.mkfifo(tmp_path / "tree/pipe")
    os.mkfifo(tmp_path / "pipe")
    for name in ("tree", "pipe"):
        with pytest.raises(UnsupportedFileError):
            twin(tmp_path / name, tmp_path / "farm")


def test_a_path_of_a_store(tmp_path: Path) -> None:
    garden = Garden(tmp_path / "store")
    garden.plant({"a": []}, files=3)
    garden.grow()
    (tmp_path / "farm").mkdir()
    with ExitStack() as stack:
        fd = stack.enter_context(directory(tmp_path / "farm"))
        store = stack.enter_context(LocalStore(garden.root, read_only=True))
        store.link_into(garden.path("a"), fd)
        with pytest.raises(DiskError) as caught:
            store.link_into(garden.path("a"), fd)
        assert caught.value.facts["errno"] == "EEXIST"
    made = tmp_path / "farm" / garden.path("a").base
    assert facts(made) == facts(garden.tree("a"))
    assert entries(made) == ["file0", "file1", "file2"]
