"""The same trees through us and through `nix-store --dump` and `--restore`: byte for byte."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from nixfetch.formats.nar.writer import write
from nixfetch.store.dump import dump
from real_nix import SYSTEMS, RealNix, real_nix
from simulated_cache import Executable, Link, Tree, tree_nar
from unit.store.disk_trees import ODD_NAMES, SAMPLE, directory, nested, restore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.differential

GENERATED = 320
# One process starts all: half of the time would go into Python's own starts otherwise.
DUMP_ALL = 'for tree in "$1"/*; do nix-store --dump "$tree" > "$2/${tree##*/}" || exit 1; done'
RESTORE_ALL = 'for nar in "$1"/*; do nix-store --restore "$2/${nar##*/}" < "$nar" || exit 1; done'


@pytest.fixture(params=SYSTEMS)
def nix(request: pytest.FixtureRequest) -> Iterator[RealNix]:
    with real_nix(request.param) as nix:
        yield nix


def name(rng: random.Random) -> bytes:
    match rng.randrange(4):
        case 0:
            return rng.choice(ODD_NAMES)
        case 1:
            length = rng.choice((1, 2, 7, 8, 9, 254, 255))
            found = bytes(rng.choice(b"\1\n\\ab~\x7f\x80\xfe\xff") for _ in range(length))
        case _:
            found = rng.choice(("a", "A", "aa", "a.b", "Zz", "ä", "…", "lib", "x" * 200)).encode()
    return found if found not in {b".", b".."} else b"x"


def data(rng: random.Random) -> bytes:
    size = rng.choice((0, 0, 1, 7, 8, 9, 100, 4096, 70_000))
    return rng.randbytes(size)


def tree(rng: random.Random, depth: int = 0) -> Tree:
    kind = rng.randrange(10)
    if depth == 6 or kind < 2:
        return data(rng)
    if kind < 4:
        return Executable(data(rng))
    if kind < 6:
        return Link(rng.choice((b"..", b"/nix/store/x", b"\xff\n", b"t" * 4095, b"a/../b")))
    return {name(rng): tree(rng, depth + 1) for _ in range(rng.choice((0, 1, 2, 3, 8)))}


def trees() -> dict[str, Tree]:
    rng = random.Random(2)
    special: dict[str, Tree] = {
        "sample": SAMPLE,
        "deep": nested(60),
        "wide": {b"%d" % number: b"" for number in range(2000)},
        "large": {b"a": rng.randbytes(3_000_001), b"b": bytes(1 << 20)},
        "odd": {odd: {odd: Link(odd)} for odd in ODD_NAMES},
        "parenthesis": {b")": b"", b"z": b""},
    }
    return special | {f"{number:03}": tree(rng) for number in range(GENERATED)}


def our_dump(parent: Path, name: str) -> bytes:
    with directory(parent) as fd:
        return b"".join(write(dump(fd, name.encode())))


def test_nars_are_equal(nix: RealNix) -> None:
    generated = trees()
    ours, nars, theirs = (nix.place / name for name in ("ours", "nars", "theirs"))
    for place in (ours, nars, theirs):
        place.mkdir()
    for label, value in generated.items():
        restore(ours, value, label.encode())
    nix.run("sh", "-c", DUMP_ALL, "-", ours, nars)
    nix.run("sh", "-c", RESTORE_ALL, "-", nars, theirs)
    assert len(os.listdir(nars)) == len(generated) > 300  # noqa: PTH208 - only counted
    for label, value in generated.items():
        expected = tree_nar(value)
        # Our restore, their dump; our restore, our dump; their restore, our dump.
        assert (nars / label).read_bytes() == expected, label
        assert our_dump(ours, label) == expected, label
        assert our_dump(theirs, label) == expected, label
