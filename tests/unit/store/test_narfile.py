from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import brotli
import pytest

from nixfetch.errors import FormatError
from nixfetch.formats.nar import NarError
from nixfetch.store import narfile
from nixfetch.store.disk import DiskError
from nixfetch.store.narfile import (
    CHUNK,
    DestinationExistsError,
    UnknownCompressionError,
    checked,
    decoded,
    dumped,
    events,
    hash_of,
    opening,
    unpack,
)
from trees import SAMPLE, File, Link, Tree, dump, generated, nested, pieces, plant, read
from trees import events as tree_events
from unit.store.disk_trees import directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nixfetch.formats.nar import Event

    Placer = Callable[[int, int, Path], None]

NAR = dump(SAMPLE)


@pytest.mark.parametrize("size", [1, 23, 24, 25, 10_000])
@pytest.mark.parametrize("compress", [bytes, lzma.compress, gzip.compress])
def test_compression_shows(compress: Callable[[bytes], bytes], size: int) -> None:
    assert b"".join(decoded(pieces(compress(NAR), size))) == NAR


@pytest.mark.parametrize(
    ("name", "compress"),
    [("br", brotli.compress), ("lzma", lambda data: lzma.compress(data, lzma.FORMAT_ALONE))],
)
def test_compression_without_magic_is_named(name: str, compress: Callable[[bytes], bytes]) -> None:
    assert b"".join(decoded([compress(NAR)], name)) == NAR
    with pytest.raises(UnknownCompressionError) as caught:
        list(decoded([compress(NAR)]))
    assert caught.value.hint


@pytest.mark.parametrize("size", [0, 1, 8, 23])
def test_the_begin_of_a_nar_is_a_truncated_one(size: int) -> None:
    with pytest.raises(NarError, match="truncated"):
        list(events(decoded([NAR[:size]])))


def test_a_file_is_opened_and_closed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(gzip.compress(NAR))
    with opening(file) as nar:
        assert b"".join(nar) == NAR


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DiskError) as caught, opening(tmp_path / "gone"):
        pass
    assert caught.value.facts == {"file": str(tmp_path / "gone"), "errno": "ENOENT"}


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DiskError) as caught, opening(tmp_path) as nar:
        list(nar)
    assert caught.value.facts["errno"] == "EISDIR"


def test_checked_passes_bytes_through_and_refuses_junk() -> None:
    assert b"".join(checked(pieces(NAR, 100))) == NAR
    with pytest.raises(NarError):
        list(checked([NAR, b"\0"]))
    with pytest.raises(NarError):
        list(checked([NAR[:-1]]))
    with pytest.raises(NarError):
        list(checked([dump(nested(3, File()))], max_depth=3))


def test_hashes() -> None:
    assert hash_of(pieces(NAR, 100)).digest == hashlib.sha256(NAR).digest()
    assert hash_of([NAR], "sha512").digest == hashlib.sha512(NAR).digest()


# From the disk.


@pytest.mark.parametrize("seed", range(24))
def test_the_nar_of_a_tree(seed: int, tmp_path: Path) -> None:
    tree = generated(seed)
    plant(tree, tmp_path / "tree")
    assert b"".join(dumped(tmp_path / "tree")) == dump(tree)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert b"".join(dumped(tmp_path / "link")) == dump(Link(os.fsencode(tmp_path)))


@pytest.mark.parametrize("spelling", [".", "below/..", "below/../"])
def test_a_directory_by_any_name(spelling: str, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    assert b"".join(dumped(tmp_path / spelling)) == dump({b"below": {}})


@pytest.mark.parametrize("name", ["gone", "gone/deeper"])
def test_nothing_has_no_nar(name: str, tmp_path: Path) -> None:
    with pytest.raises(DiskError):
        list(dumped(tmp_path / name))


# Onto the disk.


@pytest.mark.parametrize("seed", range(24))
def test_a_tree_comes_back(seed: int, tmp_path: Path) -> None:
    nar = dump(generated(seed))
    unpack(events([nar]), tmp_path / "tree")
    assert b"".join(dumped(tmp_path / "tree")) == nar
    assert [entry.name for entry in tmp_path.iterdir()] == ["tree"]


def test_modes_and_times_are_ordinary(tmp_path: Path) -> None:
    before = time.time() - 10
    unpack(events([NAR]), tmp_path / "tree")
    modes = {
        entry.relative_to(tmp_path).as_posix(): stat.S_IMODE(entry.lstat().st_mode)
        for entry in tmp_path.rglob("*")
    }
    assert modes == {
        "tree": 0o755,
        "tree/a": 0o644,
        "tree/b": 0o755,
        "tree/c": 0o755,
        "tree/c/run": 0o755,
        "tree/c/to": 0o777,
        "tree/z": 0o644,
    }
    assert all(entry.lstat().st_mtime > before for entry in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("umask", "directory", "file"),
    [("002", 0o755, 0o644), ("077", 0o700, 0o600), ("777", 0o700, 0o600)],
)
def test_the_umask_takes_away(umask: str, directory: int, file: int, tmp_path: Path) -> None:
    # In a process of its own: a umask belongs to all threads.
    code = (
        "import os, sys; from pathlib import Path; from nixfetch.store.narfile import *;"
        f"os.umask(0o{umask});"
        "unpack(events([sys.stdin.buffer.read()]), Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "tree")]
    subprocess.run(command, input=NAR, check=True, timeout=60)
    assert stat.S_IMODE((tmp_path / "tree").stat().st_mode) == directory
    assert stat.S_IMODE((tmp_path / "tree/a").stat().st_mode) == file


def broken(error: BaseException) -> Iterator[Event]:
    yield from list(tree_events(SAMPLE))[:5]
    raise error


@pytest.mark.parametrize("error", [FormatError("bad"), KeyboardInterrupt()])
def test_nothing_is_left_of_half_a_tree(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)):
        unpack(broken(error), tmp_path / "tree")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("existing", [File(b"mine"), Link(b"nowhere"), {}, {b"a": File()}])
@pytest.mark.parametrize("tree", [File(b"new"), Link(b"new"), {b"new": File()}])
def test_what_exists_is_left_alone(existing: Tree, tree: Tree, tmp_path: Path) -> None:
    plant(existing, tmp_path / "tree")
    with pytest.raises(DestinationExistsError) as caught:
        unpack(tree_events(tree), tmp_path / "tree")
    assert caught.value.exit_code == 6
    assert b"".join(dumped(tmp_path / "tree")) == dump(existing)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tree"]


@pytest.mark.parametrize("existing", [File(b"mine"), Link(b"nowhere"), {}])
@pytest.mark.parametrize("tree", [File(b"new"), Link(b"new"), {b"new": File()}])
def test_what_comes_to_exist_meanwhile_is_left_alone(
    existing: Tree, tree: Tree, tmp_path: Path
) -> None:
    def slow() -> Iterator[Event]:
        yield from tree_events(tree)
        plant(existing, tmp_path / "tree")

    with pytest.raises(DestinationExistsError):
        unpack(slow(), tmp_path / "tree")
    assert b"".join(dumped(tmp_path / "tree")) == dump(existing)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tree"]


@pytest.mark.parametrize("name", [".", "..", "tree/.."])
def test_a_name_that_can_only_exist(name: str, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    with pytest.raises(DestinationExistsError):
        unpack(tree_events(SAMPLE), tmp_path / name)


def test_no_directory_to_unpack_in(tmp_path: Path) -> None:
    with pytest.raises(DiskError):
        unpack(tree_events(SAMPLE), tmp_path / "gone/tree")


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(DiskError) as caught:
        unpack(tree_events(SAMPLE), tmp_path / ("x" * 256))
    assert caught.value.facts["errno"] == "ENAMETOOLONG"
    assert not list(tmp_path.iterdir())


def test_a_tree_that_goes_meanwhile(tmp_path: Path) -> None:
    def vanishing() -> Iterator[Event]:
        yield from tree_events(SAMPLE)
        (private,) = tmp_path.iterdir()
        (private / "tree").rename(tmp_path.with_name(f"{tmp_path.name}-elsewhere"))

    with pytest.raises(DiskError):
        unpack(vanishing(), tmp_path / "tree")
    assert not list(tmp_path.iterdir())


KINDS = [File(b"new"), Link(b"new"), {b"new": File()}]
PLACERS = [
    lambda private, parent, destination: narfile._place(private, parent, b"here", destination),
    lambda private, parent, _: narfile._place_on_placeholder(private, parent, b"here"),
]
"""As it is done, and as it is done where the file system has no better way."""


@pytest.mark.parametrize("place", PLACERS)
@pytest.mark.parametrize("tree", KINDS)
def test_a_name_that_is_free(place: Placer, tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    plant(tree, tmp_path / "private/tree")
    with directory(tmp_path / "private") as private, directory(tmp_path) as parent:
        place(private, parent, tmp_path / "here")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["here", "private"]
    assert not list((tmp_path / "private").iterdir())


@pytest.mark.parametrize("place", PLACERS)
@pytest.mark.parametrize("tree", KINDS)
def test_a_name_that_is_taken_meanwhile(place: Placer, tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    plant(tree, tmp_path / "private/tree")
    (tmp_path / "here").mkdir()
    with (
        directory(tmp_path / "private") as private,
        directory(tmp_path) as parent,
        pytest.raises((DestinationExistsError, FileExistsError)),
    ):
        place(private, parent, tmp_path / "here")
    assert (tmp_path / "here").is_dir()
    assert len(list((tmp_path / "private").iterdir())) == 1


@pytest.mark.parametrize("place", PLACERS)
@pytest.mark.parametrize("tree", KINDS)
def test_a_rename_that_fails_gives_the_name_back(place: Placer, tree: Tree, tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system")
    with tempfile.TemporaryDirectory(dir=shared) as other, ExitStack() as stack:
        plant(tree, Path(other, "tree"))
        private, parent = (stack.enter_context(directory(path)) for path in (Path(other), tmp_path))
        with pytest.raises((DiskError, OSError)):
            place(private, parent, tmp_path / "here")
    assert not list(tmp_path.iterdir())


def test_a_large_file_comes_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(5 * CHUNK))
    assert max(map(len, dumped(tmp_path / "large"))) <= CHUNK
    assert read(map(bytes, dumped(tmp_path / "large")))
