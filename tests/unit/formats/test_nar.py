"""The reader's rules one by one; each case is a NAR that real Nix 2.34 judges alike.

Two exceptions: Nix ignores bytes after the archive, and we refuse them.
"""

from __future__ import annotations

import pytest

from nixfetch.formats.nar import (
    Contents,
    Directory,
    End,
    NarError,
    NarReader,
    NarWriter,
    Regular,
    Symlink,
    wire,
)
from nixfetch.formats.nar.writer import write
from trees import SAMPLE, File, Link, Tree, dump, pieces, read, string, strings, textbook

MAGIC = string(b"nix-archive-1")


def archive(*words: bytes | str) -> bytes:
    return MAGIC + strings(*words)


def entry(name: bytes, *node: bytes | str) -> bytes:
    return strings("entry", "(", "name", name, "node", *(node or EMPTY), ")")


EMPTY = ("(", "type", "directory", ")")
FILE = ("(", "type", "regular", "contents", "x", ")")


def directory(*entries: bytes) -> bytes:
    return archive("(", "type", "directory") + b"".join(entries) + string(b")")


def nested(levels: int) -> Tree:
    tree: Tree = {}
    for _ in range(levels - 1):
        tree = {b"d": tree}
    return tree


def test_tokens_are_the_grammar() -> None:
    assert string(b"nix-archive-1") == wire.MAGIC
    assert strings("(", "type", "regular", "executable", "", "contents") == wire.EXECUTABLE
    assert strings("(", "type", "regular", "contents") == wire.REGULAR
    assert strings("(", "type", "symlink", "target") == wire.SYMLINK
    assert strings("(", "type", "directory") == wire.DIRECTORY
    assert strings("entry", "(", "name") == wire.ENTRY
    assert [wire.padding(size) for size in range(10)] == [0, 7, 6, 5, 4, 3, 2, 1, 0, 7]
    assert wire.string(b"ab") == string(b"ab")


def test_events_of_everything() -> None:
    assert read([textbook(SAMPLE)]) == [
        Directory(b""),
        Regular(b"a", 5, executable=False, offset=232),
        Contents(memoryview(b"hello")),
        End(),
        Directory(b"b"),
        End(),
        Directory(b"c"),
        Regular(b"run", 10, executable=True, offset=760),
        Contents(memoryview(b"#!/bin/sh\n")),
        End(),
        Symlink(b"to", b"../a"),
        End(),
        Regular(b"z", 0, executable=False, offset=1184),
        End(),
        End(),
    ]


@pytest.mark.parametrize(
    "tree",
    [
        File(b"hello"),
        File(b"", executable=True),
        File(bytes(100_000)),
        Link(b"/nix/store"),
        Link(b"a" * 4095),
        {},
        SAMPLE,
        {b"a" * 255: File(), b"b": Link(b"..")},
        {b"\xff\n\\": {b")": File(b")"), b"entry": File(b"entry")}},
        {b"A": File(), b"a": File(), b"a-": File(), b"a.b": File()},
        nested(64),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_what_is_accepted_comes_back(tree: Tree, size: int) -> None:
    nar = textbook(tree)
    assert dump(tree) == nar
    assert b"".join(write(read(pieces(nar, size)))) == nar


TOKEN = "unexpected token"
CASES = {
    "bad magic": (string(b"nix-archive-2") + strings(*EMPTY), TOKEN),
    "magic padding": (MAGIC[:-1] + b"x" + strings(*EMPTY), TOKEN),
    "no node": (archive(")"), TOKEN),
    "unknown type": (archive("(", "type", "fifo", ")"), TOKEN),
    "no contents": (archive("(", "type", "regular", ")"), TOKEN),
    "executable twice": (
        archive("(", "type", "regular", "executable", "", "executable", "", "contents", "x", ")"),
        TOKEN,
    ),
    "executable is not empty": (
        archive("(", "type", "regular", "executable", "x", "contents", "x", ")"),
        TOKEN,
    ),
    "executable behind contents": (
        archive("(", "type", "regular", "contents", "x", "executable", "", ")"),
        TOKEN,
    ),
    "padding of contents": (archive(*FILE)[:-17] + b"x" + archive(*FILE)[-16:], TOKEN),
    "file is not closed": (archive(*FILE[:-1], "("), TOKEN),
    "link is not closed": (archive("(", "type", "symlink", "target", "x", "("), TOKEN),
    "link without target": (archive("(", "type", "symlink", ")"), TOKEN),
    "empty target": (
        archive("(", "type", "symlink", "target", "", ")"),
        "length out of bounds",
    ),
    "target of 4096 bytes": (
        archive("(", "type", "symlink", "target", "a" * 4096, ")"),
        "length out of bounds",
    ),
    "NUL in target": (
        archive("(", "type", "symlink", "target", "a\0", ")"),
        "NUL in a name, or padding that is not zero",
    ),
    "padding of name": (
        directory(entry(b"abcdefg").replace(b"abcdefg\0", b"abcdefgx")),
        "NUL in a name, or padding that is not zero",
    ),
    "NUL in name": (directory(entry(b"a\0b")), "NUL in a name, or padding that is not zero"),
    "empty name": (directory(entry(b"")), "length out of bounds"),
    "name of 256 bytes": (directory(entry(b"a" * 256)), "length out of bounds"),
    "huge name": (
        archive("(", "type", "directory", "entry", "(", "name") + b"\xff" * 8,
        "length out of bounds",
    ),
    "dot": (directory(entry(b".")), "file name is not allowed"),
    "dot dot": (directory(entry(b"..")), "file name is not allowed"),
    "slash": (directory(entry(b"a/b")), "file name is not allowed"),
    "not sorted": (directory(entry(b"b"), entry(b"a")), "file names do not ascend"),
    "duplicate": (directory(entry(b"a"), entry(b"a")), "file names do not ascend"),
    "no name": (
        archive("(", "type", "directory", "entry", "(", "node", *EMPTY, ")", ")"),
        TOKEN,
    ),
    "no entry's node": (
        archive("(", "type", "directory", "entry", "(", "name", "a", ")", ")"),
        TOKEN,
    ),
    "no entry": (archive("(", "type", "directory", "x", ")"), TOKEN),
    "entry is not closed": (directory(entry(b"a")[:-16], entry(b"b")), TOKEN),
    "deep": (textbook(nested(65)), "archive is nested too deep"),
    "trailing": (archive(*EMPTY) + b"x", "bytes after the end of the archive"),
    "trailing zeros": (archive(*EMPTY) + bytes(8), "bytes after the end of the archive"),
    "two archives": (archive(*EMPTY) * 2, "bytes after the end of the archive"),
    "nothing": (b"", "archive is truncated"),
    "truncated": (archive(*FILE)[:-1], "archive is truncated"),
    "truncated contents": (archive("(", "type", "regular", "contents") + b"\xff" * 8, "truncated"),
}


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize(("nar", "problem"), CASES.values(), ids=CASES)
def test_refused(nar: bytes, problem: str, size: int) -> None:
    with pytest.raises(NarError, match=problem) as caught:
        read(pieces(nar, size))
    offset = caught.value.facts["offset"]
    assert isinstance(offset, int)
    assert offset <= len(nar)


def test_depth_is_a_parameter() -> None:
    nar = textbook(nested(200))
    assert len(read([nar], NarReader(max_depth=200))) == 400
    with pytest.raises(NarError, match="nested too deep") as caught:
        read([nar], NarReader(max_depth=199))
    assert caught.value.facts["limit"] == 199
    with pytest.raises(NarError, match="nested too deep"):
        read([textbook({b"a": File()})], NarReader(max_depth=1))


def test_no_file_claims_more_than_the_archive() -> None:
    nar = textbook(File(b"hello"))
    read([nar], NarReader(max_size=len(nar)))
    with pytest.raises(NarError, match="larger than its archive") as caught:
        read([nar], NarReader(max_size=100))
    assert caught.value.facts["size"] == 5


def test_contents_are_views_of_what_was_fed() -> None:
    nar = textbook(File(bytes(1000)))
    [contents] = [event for event in NarReader().feed(nar) if isinstance(event, Contents)]
    assert contents.data.obj is nar


def test_a_token_that_cannot_be_right_is_refused_before_it_is_whole() -> None:
    reader = NarReader()
    reader.feed(MAGIC)
    with pytest.raises(NarError, match="unexpected token"):
        reader.feed(b"\x02")


def test_the_offset_says_how_far() -> None:
    nar = textbook(SAMPLE)
    reader = NarReader()
    reader.feed(nar[:-1])
    assert reader.offset < len(nar)
    with pytest.raises(NarError, match="truncated"):
        reader.finish()
    reader.feed(nar[-1:])
    assert reader.offset == len(nar)
    reader.finish()


def test_the_writer_gives_contents_as_they_are() -> None:
    writer = NarWriter()
    writer.apply(Regular(b"", 3, executable=False, offset=0))
    data = memoryview(b"abc")
    assert writer.apply(Contents(data)) is data
