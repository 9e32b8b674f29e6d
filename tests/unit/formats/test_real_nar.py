"""NARs and listings of other projects' test suites, and the crafted ones, judged as 2.34 does."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from data_dir import data_dir, rows
from nixfetch.formats import listing
from nixfetch.formats.hashes import sha256
from nixfetch.formats.listing import ListedDirectory, ListedFile, ListingError
from nixfetch.formats.nar import NarError
from nixfetch.formats.nar.writer import write
from trees import pieces, read

if TYPE_CHECKING:
    from pathlib import Path

    from nixfetch.formats.nar import Event

WHOLE = 1 << 30
# Real Nix ignores what follows the archive; we refuse it.
TRAILING = {"trailing-garbage", "trailing-zero8", "two-nars"}


def judged(nar: bytes) -> list[Event] | str:
    """The events of `nar`, or why not; the same however it comes."""
    verdicts = [_judged(nar, size) for size in (WHOLE, 7, 1)]
    assert verdicts[0] == verdicts[1] == verdicts[2]
    if isinstance(verdicts[0], list):
        assert b"".join(write(verdicts[0])) == nar
    return verdicts[0]


def _judged(nar: bytes, size: int) -> list[Event] | str:
    try:
        return read(pieces(nar, size))
    except NarError as error:
        return error.problem


def crafted_verdicts(table: Path) -> dict[str, bool]:
    """Whether `nix-store --restore` of Nix 2.34 accepts a NAR, by its name."""
    verdicts = {}
    for line in table.read_text().splitlines():
        name, _, rest = line.partition("|")
        verdicts[name.strip()] = rest.split("34: ")[1].startswith("OK")
    return verdicts


def test_crafted_nars() -> None:
    folder = data_dir("crafted-nar")
    theirs = crafted_verdicts(folder / "RESULTS.txt")
    assert len(theirs) == 50
    ours = {name: judged((folder / f"{name}.nar").read_bytes()) for name in theirs}
    accepted = {name for name, verdict in ours.items() if isinstance(verdict, list)}
    assert accepted == {name for name, fine in theirs.items() if fine} - TRAILING
    assert {ours[name] for name in TRAILING} == {"bytes after the end of the archive"}


def test_nars_of_other_projects() -> None:
    folder = data_dir("real-nar")
    table = [row for row in rows(folder / "MANIFEST.tsv") if row["file"].endswith(".nar")]
    assert len(table) == 34
    ours, theirs = {}, {}
    for row in table:
        nar = (folder / row["file"]).read_bytes()
        assert len(nar) == int(row["bytes"])
        assert str(sha256(nar)) == row["sha256(nix32)"]
        if len(nar) > 100_000:  # byte by byte takes a second there
            ours[row["file"]] = _judged(nar, WHOLE) == _judged(nar, 4093) != []
        else:
            ours[row["file"]] = isinstance(judged(nar), list)
        theirs[row["file"]] = row["strict NAR check"] == "valid"
    assert ours == theirs


def test_listings_of_other_projects() -> None:
    folder = data_dir("real-nar")
    release = listing.parse((folder / "nixos-release.ls").read_bytes())
    assert listing.render(release) == (folder / "nixos-release.ls").read_bytes()
    deep = json.loads((folder / "deep.json").read_bytes())
    root = listing.parse(json.dumps({"version": 1, "root": deep}).encode())
    assert isinstance(root, ListedDirectory)
    assert root.entries[b"foo"] == ListedFile(15)
    # Nix's listings of one level have nodes without a type; no `.ls` file has such.
    shallow = json.loads((folder / "shallow.json").read_bytes())
    with pytest.raises(ListingError, match="node has no known type"):
        listing.parse(json.dumps({"version": 1, "root": shallow}).encode())


def test_hashes_are_those_of_the_bytes() -> None:
    folder = data_dir("real-nar")
    for row in rows(folder / "MANIFEST.tsv"):
        data = (folder / row["file"]).read_bytes()
        assert sha256(data).digest == hashlib.sha256(data).digest()
        assert str(sha256(data)) == row["sha256(nix32)"]
