from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest

from filled_store import damage
from nixfetch.formats.hashes import sha256
from nixfetch.store.disk import DiskError
from nixfetch.store.links import Links, content_name
from nixfetch.store.offers import Offers
from nixfetch.store.restore import Restorer
from simulated_cache import Executable, Link, store_path, tree_events, tree_nar
from unit.store.disk_trees import directory, entries, read_tree

if TYPE_CHECKING:
    from pathlib import Path

    from simulated_cache import Tree

HASH_PART = store_path("a").hash_part
TREE: Tree = {
    b"file": b"contents",
    b"program": Executable(b"contents"),
    b"empty": b"",
    b"link": Link(b"file"),
    b"large": bytes(3 * 1024 * 1024),
}


def unpack(place: Path, name: str, *, repairing: bool = False) -> Path:
    (place / ".links").mkdir(exist_ok=True)
    with directory(place) as fd, directory(place / ".links") as links:
        offers = Offers(fd, Links(links, repairing=repairing), HASH_PART, announce=lambda _: None)
        restorer = Restorer(fd, name.encode(), links=offers)
        try:
            for event in tree_events(TREE):
                restorer.apply(event)
        finally:
            restorer.close()
        offers.turn_over()
        offers.publish()
        assert offers.close()
    return place / name


def test_names_are_those_of_the_content(memory_path: Path) -> None:
    unpack(memory_path, "one")
    links = memory_path / ".links"
    with directory(links) as fd:
        for name in entries(links):
            assert content_name(fd, name) == name
        with pytest.raises(DiskError):
            content_name(fd, "none")
    assert (links / sha256(tree_nar(b"contents")).base32).is_file()


def test_good_entries_are_shared(memory_path: Path) -> None:
    one, two = unpack(memory_path, "one"), unpack(memory_path, "two")
    for name in ("file", "program", "empty", "large", "link"):
        assert (one / name).lstat().st_ino == (two / name).lstat().st_ino


@pytest.mark.parametrize("name", ["file", "program", "large"])
def test_a_bad_entry_is_not_and_a_good_one_takes_its_place(memory_path: Path, name: str) -> None:
    one = unpack(memory_path, "one")
    data = bytearray((one / name).read_bytes())
    data[5] ^= 1
    damage(one / name, bytes(data))
    two = unpack(memory_path, "two")
    assert read_tree(two) == TREE
    assert not (one / name).samefile(two / name)
    assert (unpack(memory_path, "three") / name).samefile(two / name)


def test_an_entry_that_is_a_pipe(memory_path: Path) -> None:
    one = unpack(memory_path, "one")
    entry = memory_path / ".links" / sha256(tree_nar(b"contents")).base32
    entry.unlink()
    os.mkfifo(entry)
    two = unpack(memory_path, "two")
    assert read_tree(two) == TREE
    assert entry.samefile(two / "file")
    assert not entry.samefile(one / "file")


@pytest.mark.parametrize("repairing", [False, True])
def test_whoever_did_not_come_for_it_hears_of_it(
    memory_path: Path, caplog: pytest.LogCaptureFixture, *, repairing: bool
) -> None:
    one = unpack(memory_path, "one")
    damage(one / "file", b"CONTENTS")
    unpack(memory_path, "two", repairing=repairing)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == (0 if repairing else 1)
    assert repairing or "nixfetch verify --all --repair" in warnings[0].getMessage()
