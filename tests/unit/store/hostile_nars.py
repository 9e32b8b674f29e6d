"""NARs that must be refused, written by hand: no code of ours makes them, so none can be kind."""

from __future__ import annotations

from itertools import pairwise


def string(data: bytes, *, size: int | None = None, fill: bytes = b"\0") -> bytes:
    """One string of a NAR, perhaps with a false size or another padding."""
    return (
        (len(data) if size is None else size).to_bytes(8, "little") + data + fill * (-len(data) % 8)
    )


def words(*parts: bytes) -> bytes:
    return b"".join(map(string, parts))


def file(data: bytes = b"data") -> bytes:
    return words(b"(", b"type", b"regular", b"contents", data, b")")


def link(target: bytes) -> bytes:
    return words(b"(", b"type", b"symlink", b"target", target, b")")


def entry(name: bytes, node: bytes) -> bytes:
    return words(b"entry", b"(", b"name", name, b"node") + node + words(b")")


def directory(*entries: bytes) -> bytes:
    return words(b"(", b"type", b"directory") + b"".join(entries) + words(b")")


def archive(node: bytes) -> bytes:
    return words(b"nix-archive-1") + node


def nested(levels: int) -> bytes:
    node = file()
    for _ in range(levels):
        node = directory(entry(b"d", node))
    return node


def named(name: bytes) -> bytes:
    return archive(directory(entry(name, file())))


OUTSIDE = b"../../../../outside"
WHOLE = archive(directory(entry(b"a", file()), entry(b"b", file())))
HOSTILE = {
    "empty-input": b"",
    "bad-magic": words(b"nix-archive-2") + file(),
    "nonzero-pad-magic": string(b"nix-archive-1", fill=b"x") + file(),
    "nonzero-pad-content": archive(
        words(b"(", b"type", b"regular", b"contents") + string(b"data", fill=b"x") + words(b")")
    ),
    "nonzero-pad-name": archive(
        words(b"(", b"type", b"directory", b"entry", b"(", b"name")
        + string(b"a", fill=b"x")
        + words(b"node")
        + file()
        + words(b")", b")")
    ),
    "no-contents-tag": archive(words(b"(", b"type", b"regular", b")")),
    "exec-nonempty": archive(
        words(b"(", b"type", b"regular", b"executable", b"yes", b"contents", b"data", b")")
    ),
    "exec-after-contents": archive(
        words(b"(", b"type", b"regular", b"contents", b"data", b"executable", b"", b")")
    ),
    "exec-twice": archive(
        words(b"(", b"type", b"regular", b"executable", b"", b"executable", b"", b"contents")
        + words(b"data", b")")
    ),
    "type-unknown": archive(words(b"(", b"type", b"fifo", b")")),
    "type-twice": archive(words(b"(", b"type", b"regular", b"type", b"symlink", b")")),
    "unsorted": archive(directory(entry(b"b", file()), entry(b"a", file()))),
    "dup": archive(directory(entry(b"a", file()), entry(b"a", file()))),
    "case-of-the-tag": archive(words(b"(", b"Type", b"regular", b"contents", b"data", b")")),
    "symlink-then-child": archive(
        directory(entry(b"a", link(OUTSIDE)), entry(b"a", directory(entry(b"x", file()))))
    ),
    "link-then-name-through-it": archive(
        directory(entry(b"a", link(OUTSIDE)), entry(b"a/x", file()))
    ),
    "name-empty": named(b""),
    "name-dot": named(b"."),
    "name-dotdot": named(b".."),
    "name-slash": named(b"a/b"),
    "name-climbs": named(b"../x"),
    "name-absolute": named(b"/tmp/x"),
    "name-nul": named(b"a\0b"),
    "name-256": named(b"n" * 256),
    "symlink-empty": archive(link(b"")),
    "symlink-nul": archive(link(b"a\0b")),
    "symlink-4096": archive(link(b"t" * 4096)),
    "depth-65": archive(nested(65)),
    "depth-5000": archive(nested(5000)),
    "node-before-name": archive(
        words(b"(", b"type", b"directory", b"entry", b"(", b"node")
        + file()
        + words(b"name", b"a", b")", b")")
    ),
    "entry-no-node": archive(
        words(b"(", b"type", b"directory", b"entry", b"(", b"name", b"a", b")", b")")
    ),
    "unknown-token": archive(
        words(b"(", b"type", b"directory") + entry(b"a", file()) + words(b"etc", b")")
    ),
    "trailing-garbage": WHOLE + b"garbage!",
    "trailing-zero8": WHOLE + bytes(8),
    "two-nars": WHOLE + WHOLE,
    "truncated": WHOLE[:-8],
    "truncated-in-a-file": archive(words(b"(", b"type", b"regular", b"contents"))
    + (10).to_bytes(8, "little")
    + b"12345",
    "huge-string-len": words(b"nix-archive-1") + string(b"(", size=2**63),
    "huge-content": archive(words(b"(", b"type", b"regular", b"contents"))
    + (2**62).to_bytes(8, "little")
    + b"data",
    "root-file-then-directory": archive(file()) + directory(),
    "html": b"<!DOCTYPE html><html></html>",
}
"""By the name of what is wrong with it."""


def cuts(nar: bytes, size: int) -> list[bytes]:
    """`nar` in pieces of `size` bytes."""
    edges = [*range(0, len(nar), size), len(nar)]
    return [nar[a:b] for a, b in pairwise(edges)]
