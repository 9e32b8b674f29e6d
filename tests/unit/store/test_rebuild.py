from __future__ import annotations

import errno
import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from filled_store import Filled, fill
from nixfetch.store.database import Database, DatabaseError, SchemaError
from nixfetch.store.disk import DiskError
from nixfetch.store.layout import Layout
from nixfetch.store.rebuild import _keep, copied, rebuilding
from unit.store.disk_trees import entries, place_of_nobody, python

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    return fill(tmp_path)


def failing(number: int) -> Callable[[Path, Path], object]:
    def copy(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:10])
        raise OSError(number, os.strerror(number))

    return copy


def test_a_file_that_its_disk_has_lost_is_done_without(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    assert not copied(source, target)
    source.write_bytes(b"data" * 10)
    assert copied(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert not copied(source, target, copy=failing(errno.EIO))
    assert not target.exists()
    with pytest.raises(OSError, match="No space"):
        copied(source, target, copy=failing(errno.ENOSPC))


def test_what_there_is(filled: Filled) -> None:
    with rebuilding(Layout(filled.root)) as store:
        assert store.sound
        assert store.trees == filled.all
        assert sorted(store.claims) == filled.all
    assert not [name for name in entries(Layout(filled.root).database) if "rebuild" in name]


def test_a_crash_before_the_end_changes_nothing(filled: Filled) -> None:
    directory = Layout(filled.root).database
    (directory / "db.sqlite").write_bytes(b"garbage")
    with pytest.raises(KeyboardInterrupt), rebuilding(Layout(filled.root)):
        raise KeyboardInterrupt
    assert (directory / "db.sqlite").read_bytes() == b"garbage"
    assert entries(directory) == ["big-lock", "db.sqlite", "reserved", "schema"]


def test_a_file_system_without_hard_links(tmp_path: Path) -> None:
    """The name that the old one is to have is refused for a hard link, not for a rename."""
    old = tmp_path / "db.sqlite"
    old.write_bytes(b"old")
    kept = tmp_path / "kept"
    kept.write_bytes(b"")
    assert _keep(old, kept)
    assert kept.read_bytes() == b"old"
    assert not old.exists()
    assert not _keep(old, tmp_path / "again")


def test_a_schema_that_is_a_directory(filled: Filled) -> None:
    schema = Layout(filled.root).database / "schema"
    schema.unlink()
    schema.mkdir()
    with pytest.raises(DatabaseError), rebuilding(Layout(filled.root)):
        pass


def test_another_version_beside_a_copy(filled: Filled) -> None:
    (Layout(filled.root).database / "schema").write_text("7")
    with pytest.raises(SchemaError), rebuilding(Layout(filled.root)):
        pass


def test_a_lock_that_cannot_be_made() -> None:
    code = """
import sys
from pathlib import Path
from filled_store import fill
from nixfetch.store.disk import DiskError
from nixfetch.store.layout import Layout
from nixfetch.store.rebuild import rebuilding
from unit.store.disk_trees import become_nobody
become_nobody()
filled = fill(Path(sys.argv[1]))
lock = Layout(filled.root).database / "big-lock"
lock.chmod(0)
try:
    with rebuilding(Layout(filled.root)):
        pass
except DiskError as error:
    print(error.facts["errno"], error.facts["file"] == str(lock))
"""
    with place_of_nobody() as place:
        assert python(code, place) == "EACCES True\n"


def test_a_directory_in_the_place_of_the_database(filled: Filled) -> None:
    database = Layout(filled.root).database / "db.sqlite"
    database.unlink()
    database.mkdir()
    with pytest.raises(DiskError), rebuilding(Layout(filled.root)):
        pass
    with pytest.raises(DatabaseError):
        closing(Database(database.parent))
