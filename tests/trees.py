"""File trees as values, on disk, and as NARs: by our writer, and by the textbook's grammar."""

from __future__ import annotations

import os
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, TypeAlias

from nixfetch.formats.nar import Contents, Directory, End, NarReader, Regular, Symlink
from nixfetch.formats.nar.writer import write

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from nixfetch.formats.nar import Event


@dataclass(frozen=True, slots=True)
class File:
    """A regular file."""

    contents: bytes = b""
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    target: bytes


Tree: TypeAlias = "File | Link | dict[bytes, Tree]"

SAMPLE: Tree = {
    b"a": File(b"hello"),
    b"b": {},
    b"c": {b"run": File(b"#!/bin/sh\n", executable=True), b"to": Link(b"../a")},
    b"z": File(b""),
}
"""A little of everything."""


def events(tree: Tree, name: bytes = b"") -> Iterator[Event]:
    """What a reader says of `tree`, but for offsets, which are 0."""
    match tree:
        case File(contents, executable):
            yield Regular(name, len(contents), executable, 0)
            if contents:
                yield Contents(memoryview(contents))
            yield End()
        case Link(target):
            yield Symlink(name, target)
        case dict():
            yield Directory(name)
            for child in sorted(tree):
                yield from events(tree[child], child)
            yield End()


def dump(tree: Tree) -> bytes:
    """The NAR of `tree`, by `NarWriter`."""
    return b"".join(write(events(tree)))


def textbook(tree: Tree) -> bytes:
    """The NAR of `tree`, by the grammar in Nix's manual, keyword by keyword."""
    return string(b"nix-archive-1") + _node(tree)


def string(data: bytes) -> bytes:
    padded = data
    while len(padded) % 8:
        padded += b"\0"
    return len(data).to_bytes(8, "little") + padded


def strings(*words: bytes | str) -> bytes:
    return b"".join(string(word.encode() if isinstance(word, str) else word) for word in words)


def _node(tree: Tree) -> bytes:
    match tree:
        case File(contents, executable):
            flag = ("executable", "") if executable else ()
            return strings("(", "type", "regular", *flag, "contents", contents, ")")
        case Link(target):
            return strings("(", "type", "symlink", "target", target, ")")
        case dict():
            entries = b"".join(
                strings("entry", "(", "name", name, "node") + _node(tree[name]) + string(b")")
                for name in sorted(tree)
            )
            return strings("(", "type", "directory") + entries + string(b")")


def read(chunks: Iterable[bytes], reader: NarReader | None = None) -> list[Event]:
    """All events of a whole NAR, with neighbouring `Contents` joined."""
    reader = reader or NarReader()
    joined: list[Event] = []
    for chunk in chunks:
        for event in reader.feed(chunk):
            match joined, event:
                case [*_, Contents(before)], Contents(data):
                    joined[-1] = Contents(memoryview(bytes(before) + bytes(data)))
                case _:
                    joined.append(event)
    reader.finish()
    return joined


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """`data` in pieces of `size` bytes."""
    return (data[start : start + size] for start in range(0, len(data), size))


# Trees on disk, and trees made up.

DEEP = 62  # levels of directories around a file: 64 of nodes would be too many
LARGE = 1_500_000  # bytes: several pieces of every reader
ODD_NAMES = (
    b"new\nline",
    b"\xff\xfe not UTF-8",
    b"back\\slash",
    b'"quoted"',
    b"\x1b[31mred",
    b" ",
    b"...",
    b"-rf",
    b")",
    b"entry",
    b"\xc3\xa9t\xc3\xa9",
    b"~case~hack~1",
    b"x" * 255,
)


def generated(seed: int) -> Tree:
    """A tree that is odd in the way that `seed` has it; equal seeds, equal trees."""
    random = Random(seed)
    match seed % 12:
        case 0:
            return nested(DEEP, _leaf(random))
        case 1:
            return {b"large": File(random.randbytes(LARGE + seed)), b"small": File(b"1")}
        case 2:
            return _leaf(random)
        case 3:
            return {name: _leaf(random) for name in ODD_NAMES}
        case 4:
            return {b"%d" % number: File() for number in range(300)}
        case _:
            return _directory(random, depth=4)


def nested(levels: int, leaf: Tree) -> Tree:
    """A directory in a directory in …; `levels` of them."""
    for _ in range(levels):
        leaf = {b"d": leaf}
    return leaf


def plant(tree: Tree, path: Path) -> None:
    """Make `tree` at `path`, with the modes that a user would give."""
    match tree:
        case File(contents, executable):
            path.write_bytes(contents)
            path.chmod(0o755 if executable else 0o644)
        case Link(target):
            path.symlink_to(os.fsdecode(target))
        case dict():
            path.mkdir()
            for name, child in tree.items():
                plant(child, path / os.fsdecode(name))


def _directory(random: Random, depth: int) -> dict[bytes, Tree]:
    tree: dict[bytes, Tree] = {}
    for _ in range(random.randrange(6)):
        deeper = depth and random.random() < 0.4
        tree[_name(random)] = _directory(random, depth - 1) if deeper else _leaf(random)
    return tree


def _leaf(random: Random) -> Tree:
    if random.random() < 0.25:
        return Link(random.choice([b"..", b"/nix/store", b"gone", b"\xff\n", b"t" * 4000]))
    size = random.choice([0, 0, 1, 7, 8, 9, 4096, random.randrange(70_000)])
    return File(random.randbytes(size), executable=random.random() < 0.3)


def _name(random: Random) -> bytes:
    kind = random.random()
    if kind < 0.3:
        return random.choice(ODD_NAMES[:-1])
    if kind < 0.4:  # hardly ever UTF-8
        alphabet = bytes(set(range(1, 256)) - {ord("/"), ord(".")})
        return bytes(random.choices(alphabet, k=random.randrange(1, 30)))
    return "".join(random.choices("abcXYZ019 _-+=é漢\U0001f600\x7f\t'", k=9)).encode()
