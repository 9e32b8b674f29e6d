from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from nixfetch.formats import listing
from nixfetch.formats.nar import NarReader
from nixfetch.formats.narview import (
    NotAFileError,
    NotInArchiveError,
    components,
    contents,
    json_pieces,
    lines,
    subtree,
)
from trees import SAMPLE, File, Link, Tree, dump, generated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nixfetch.formats.nar import Event


def events(tree: Tree) -> Iterator[Event]:
    reader = NarReader()
    yield from reader.feed(dump(tree))
    reader.finish()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (b"/", ()),
        (b"", ()),
        (b".", ()),
        (b"a", (b"a",)),
        (b"/a//b/./c/", (b"a", b"b", b"c")),
        (b"/a/../b", (b"b",)),
        (b"/../../a", (b"a",)),
        (b"\xff\n/...", (b"\xff\n", b"...")),
    ],
)
def test_a_path_inside_is_canonical(text: bytes, names: tuple[bytes, ...]) -> None:
    assert components(text) == names


@pytest.mark.parametrize(
    ("path", "node"),
    [
        (b"/", SAMPLE),
        (b"/a", File(b"hello")),
        (b"/b", {}),
        (b"/c", {b"run": File(b"#!/bin/sh\n", executable=True), b"to": Link(b"../a")}),
        (b"/c/run", File(b"#!/bin/sh\n", executable=True)),
        (b"/c/to", Link(b"../a")),
        (b"/z", File(b"")),
    ],
)
def test_a_node_is_picked_out(path: bytes, node: Tree) -> None:
    picked = "".join(json_pieces(subtree(events(SAMPLE), components(path)), recursive=True))
    expected = "".join(json_pieces(events(node), recursive=True))
    assert without_offsets(json.loads(picked)) == without_offsets(json.loads(expected))


def without_offsets(value: object) -> object:
    if isinstance(value, dict):
        return {
            name: without_offsets(child) for name, child in value.items() if name != "narOffset"
        }
    return value


@pytest.mark.parametrize(
    "path", [b"/no", b"/a/b", b"/c/to/a", b"/c/run/x", b"/run", b"/c/a", b"/d"]
)
def test_what_is_not_there_is_an_error_after_all_was_read(path: bytes) -> None:
    left = events(SAMPLE)
    with pytest.raises(NotInArchiveError) as caught:
        list(subtree(left, components(path)))
    assert caught.value.facts == {"inside": path}
    assert caught.value.exit_code == 1
    assert not list(left)


def test_a_name_that_comes_again_deeper_is_not_the_one() -> None:
    tree: Tree = {b"a": {b"b": File(b"inner")}, b"b": File(b"outer")}
    assert read(tree, b"/b") == b"outer"
    assert read(tree, b"/a/b") == b"inner"


def read(tree: Tree, path: bytes) -> bytes:
    return b"".join(contents(subtree(events(tree), components(path))))


def test_contents_of_a_file_as_root() -> None:
    assert read(File(b"whole"), b"/") == b"whole"
    assert read(File(b""), b"/") == b""


@pytest.mark.parametrize(("path", "kind"), [(b"/", "directory"), (b"/c/to", "symlink")])
def test_only_files_have_contents(path: bytes, kind: str) -> None:
    with pytest.raises(NotAFileError) as caught:
        read(SAMPLE, path)
    assert caught.value.facts == {"type": kind}


def test_lines_of_the_entries() -> None:
    assert list(lines(events(SAMPLE))) == [b"./a", b"./b", b"./c", b"./z"]


def test_lines_of_all_below() -> None:
    listed = list(lines(events(SAMPLE), recursive=True))
    assert listed == [b"./a", b"./b", b"./c", b"./c/run", b"./c/to", b"./z"]


def test_long_lines_as_nix_has_them() -> None:
    assert list(lines(events(SAMPLE), recursive=True, long=True)) == [
        b"-r--r--r--                    5 ./a",
        b"dr-xr-xr-x                    0 ./b",
        b"dr-xr-xr-x                    0 ./c",
        b"-r-xr-xr-x                   10 ./c/run",
        b"lrwxrwxrwx                    0 ./c/to -> ../a",
        b"-r--r--r--                    0 ./z",
    ]


def test_the_line_of_a_file_is_its_name() -> None:
    node = subtree(events(SAMPLE), (b"c", b"run"))
    assert list(lines(node, name=b"run", recursive=True)) == [b"run"]
    link = subtree(events(SAMPLE), (b"c", b"to"))
    assert list(lines(link, name=b"to", long=True)) == [
        b"lrwxrwxrwx                    0 to -> ../a"
    ]


def test_json_of_the_entries() -> None:
    text = "".join(json_pieces(events(SAMPLE)))
    assert text == '{"entries":{"a":{},"b":{},"c":{},"z":{}},"type":"directory"}'


@pytest.mark.parametrize("tree", [SAMPLE, File(b"1", executable=True), Link(b"to"), {}])
def test_json_of_all_is_that_of_a_listing(tree: Tree) -> None:
    text = "".join(json_pieces(events(tree), recursive=True))
    assert json.loads(text) == listing.to_json(listing.of_nar(events(tree)))


@pytest.mark.parametrize("seed", range(48))
def test_json_of_any_tree_is_that_of_a_listing(seed: int) -> None:
    tree = generated(seed)
    text = "".join(json_pieces(events(tree), recursive=True))
    assert json.loads(text) == listing.to_json(listing.of_nar(events(tree)))
    flat = json.loads("".join(json_pieces(events(tree))))
    assert flat.get("entries", {}) == {name: {} for name in json.loads(text).get("entries", {})}
