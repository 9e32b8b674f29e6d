from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from filled_store import Filled, damage, fill
from nixfetch.store import LocalStore
from nixfetch.store.disk import DiskError
from nixfetch.verify import BadLink, repair_links, verify_links
from nixfetch.verify.links import WrongLinkError
from unit.store.disk_trees import entries, place_of_nobody, python

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    return fill(tmp_path)


def links(filled: Filled) -> Path:
    return filled.root / "nix/store/.links"


def entry_of(filled: Filled, file: Path) -> Path:
    (found,) = [
        entry
        for entry in links(filled).iterdir()
        if not entry.is_symlink() and entry.samefile(file)
    ]
    return found


def verify(filled: Filled) -> list[BadLink]:
    told: list[BadLink] = []
    with filled.open() as store:
        found = verify_links(store, jobs=2, on_result=told.append)
    assert sorted(told, key=lambda bad: bad.name) == found
    return found


def test_good_ones(filled: Filled) -> None:
    assert len(entries(links(filled))) == 6
    assert verify(filled) == []


def test_none_at_all(filled: Filled) -> None:
    shutil.rmtree(links(filled))
    assert verify(filled) == []
    with LocalStore(filled.root, read_only=True) as store:
        assert repair_links(store, []) == []


def test_bad_ones(filled: Filled) -> None:
    file = filled.on_disk(filled.library) / "lib/a"
    entry = entry_of(filled, file)
    damage(file, b"c0de")
    (links(filled) / "odd").symlink_to("nowhere")
    os.mkfifo(links(filled) / "pipe")
    found = verify(filled)
    assert [bad.name for bad in found] == sorted([entry.name, "odd", "pipe"])
    by_name = {bad.name: bad.problem for bad in found}
    assert isinstance(by_name[entry.name], WrongLinkError)
    assert by_name[entry.name].facts["file"] == f".links/{entry.name}"
    assert isinstance(by_name["pipe"], WrongLinkError)
    with filled.open(read_only=False) as store:
        assert repair_links(store, found) == []
        assert verify_links(store) == []
    assert file.read_bytes() == b"c0de"


@pytest.mark.parametrize("inside", [(), ("a", "b")])
def test_a_directory_in_the_place_of_one(filled: Filled, inside: tuple[str, ...]) -> None:
    entry = entry_of(filled, filled.on_disk(filled.library) / "lib/a")
    entry.unlink()
    entry.mkdir()
    for name in inside:
        (entry / name).write_bytes(b"what is this?")
    entry.chmod(0o555)
    found = verify(filled)
    assert [bad.name for bad in found] == [entry.name]
    assert isinstance(found[0].problem, WrongLinkError)
    with filled.open(read_only=False) as store:
        assert repair_links(store, found) == []
        assert verify_links(store) == []
    assert not entry.exists()


def test_a_good_one_that_took_the_place_stays(filled: Filled) -> None:
    file = filled.on_disk(filled.library) / "lib/a"
    entry = entry_of(filled, file)
    damage(file, b"c0de")
    found = verify(filled)
    damage(entry, b"code")
    with filled.open(read_only=False) as store:
        assert repair_links(store, found) == []
    assert entry.exists()


def test_one_that_goes_meanwhile_is_not_bad(filled: Filled) -> None:
    with filled.open(read_only=False) as store:
        assert repair_links(store, [BadLink("gone", DiskError("x"))]) == []


def test_a_directory_that_is_none(filled: Filled) -> None:
    shutil.rmtree(links(filled))
    links(filled).write_bytes(b"")
    with pytest.raises(DiskError):
        verify(filled)


def test_many(filled: Filled) -> None:
    for number in range(500):
        (links(filled) / str(number)).write_bytes(b"")
    assert len(verify(filled)) == 500


def test_what_cannot_be_removed_stays_reported() -> None:
    code = """
import sys
from pathlib import Path
from filled_store import damage, fill
from nixfetch.verify import repair_links, verify_links
from unit.store.disk_trees import become_nobody
become_nobody()
filled = fill(Path(sys.argv[1]))
damage(filled.on_disk(filled.text), b"sword")
with filled.open(read_only=False) as store:
    found = verify_links(store)
    links = filled.root / "nix/store/.links"
    links.chmod(0o555)
    (left,) = repair_links(store, found)
    links.chmod(0o755)
print(left.name == found[0].name, left.problem.facts["errno"])
"""
    with place_of_nobody() as place:
        assert python(code, place) == "True EACCES\n"
