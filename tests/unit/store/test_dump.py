from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from nixfetch.formats.nar import Contents, Directory, Regular
from nixfetch.formats.nar.writer import write
from nixfetch.store.disk import DiskError
from nixfetch.store.dump import CHUNK, ChangedFileError, UnsupportedFileError, dump
from simulated_cache import Executable, Link, Tree, tree_nar
from unit.store.disk_trees import (
    SAMPLE,
    descriptors,
    directory,
    nested,
    place_of_nobody,
    python,
    restore,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def nar_of(parent: Path, name: bytes = b"tree") -> bytes:
    with directory(parent) as fd:
        return b"".join(write(dump(fd, name)))


@pytest.fixture(autouse=True)
def _no_descriptor_is_lost() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before


@pytest.mark.parametrize(
    "tree",
    [b"", b"data", Executable(b"x"), Link(b"nowhere"), {}, SAMPLE, nested(200), {b"a": {b"b": {}}}],
    ids=["empty", "file", "program", "link", "directory", "sample", "deep", "empty below"],
)
def test_it_is_the_inverse_of_restore(tmp_path: Path, tree: Tree) -> None:
    restore(tmp_path, tree)
    assert nar_of(tmp_path) == tree_nar(tree)


def test_modes_other_than_the_owners_x_do_not_show(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    for name, mode in (("a", 0o600), ("b", 0o111), ("c", 0o4700), ("d", 0o677)):
        (tmp_path / "tree" / name).write_bytes(b"")
        (tmp_path / "tree" / name).chmod(mode)
    if os.geteuid():
        pytest.skip("only root can read what its owner may not")
    runs = Executable(b"")
    assert nar_of(tmp_path) == tree_nar({b"a": b"", b"b": runs, b"c": runs, b"d": b""})


def test_pipes_are_refused_and_do_not_block(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    os.mkfifo(tmp_path / "tree/fifo")
    with pytest.raises(UnsupportedFileError) as caught:
        nar_of(tmp_path)
    assert caught.value.facts == {"file": "fifo"}


def test_sockets_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # socket names are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("tree")
        with pytest.raises(UnsupportedFileError):
            nar_of(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="no such file or directory") as caught:
        nar_of(tmp_path)
    assert caught.value.facts == {"file": "tree", "errno": "ENOENT"}


@pytest.mark.parametrize(
    ("size", "problem"),
    [(CHUNK, "file shrank while it was read"), (3 * CHUNK, "file grew while it was read")],
)
def test_a_file_that_changes_meanwhile(tmp_path: Path, size: int, problem: str) -> None:
    file = tmp_path / "tree"
    file.write_bytes(bytes(2 * CHUNK))
    with directory(tmp_path) as fd:
        events = dump(fd, b"tree")
        assert next(events) == Regular(b"", 2 * CHUNK, executable=False, offset=0)
        assert isinstance(next(events), Contents)
        os.truncate(file, size)
        with pytest.raises(ChangedFileError, match=problem) as caught:
            list(events)
    assert caught.value.facts == {"file": "tree"}


def test_a_file_that_vanishes_meanwhile(tmp_path: Path) -> None:
    restore(tmp_path, {b"a": b"", b"b": b""})
    with directory(tmp_path) as fd:
        events = dump(fd, b"tree")
        assert next(events) == Directory(b"")
        (tmp_path / "tree").chmod(0o755)
        next(events)
        (tmp_path / "tree/b").unlink()
        with pytest.raises(DiskError, match="no such file"):
            list(events)


def test_a_tree_that_moves_meanwhile(tmp_path: Path) -> None:
    restore(tmp_path, nested(60))
    with directory(tmp_path) as fd:
        events = dump(fd, b"tree")
        for _ in range(61):
            next(events)
        # The upper directories are closed by now; the way back up leads elsewhere.
        moved = tmp_path / ("tree" + "/d" * 10)
        moved.parent.chmod(0o755)
        moved.chmod(0o755)
        moved.rename(tmp_path / "elsewhere")
        with pytest.raises(DiskError, match="stale file handle"):
            list(events)


def test_abandoning_it_anywhere_leaves_no_descriptor(tmp_path: Path) -> None:
    restore(tmp_path, {b"a": b"data", b"d": {b"l": Link(b"x"), b"z": b""}})
    before = descriptors()
    with directory(tmp_path) as fd:
        count = len(list(dump(fd, b"tree")))
        for number in range(count):
            events = dump(fd, b"tree")
            for _ in range(number):
                next(events)
            events.close()  # type: ignore[attr-defined] # a generator in fact
    assert descriptors() == before


def test_an_ordinary_user_is_told_what_cannot_be_read() -> None:
    code = """
import os, sys
from pathlib import Path
from nixfetch.store.disk import DiskError
from unit.store.disk_trees import become_nobody
from unit.store.test_dump import nar_of
become_nobody()
for name, make in (("file", Path.touch), ("directory", Path.mkdir)):
    place = Path(sys.argv[1], name)
    place.mkdir()
    make(place / "tree")
    (place / "tree").chmod(0)
    try:
        nar_of(place)
    except DiskError as error:
        print(error.facts["errno"], error.hint is not None)
"""
    with place_of_nobody() as place:
        assert python(code, place) == "EACCES True\n" * 2
