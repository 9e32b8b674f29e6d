from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from filled_store import Filled, fill
from nixfetch.store import LocalStore
from nixfetch.store.disk import DiskError
from nixfetch.store.leftovers import leftovers
from simulated_cache import SimulatedCache, store_path
from unit.store.disk_trees import SAMPLE, place_of_nobody, python

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    return fill(tmp_path)


def found(filled: Filled) -> list[str]:
    with filled.open() as store:
        return leftovers(store)


@contextmanager
def locked(file: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    fd = os.open(file, os.O_RDONLY)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)


def test_a_store_as_it_should_be(filled: Filled) -> None:
    assert found(filled) == []


def test_whatever_no_row_names(filled: Filled) -> None:
    store = filled.root / "nix/store"
    gone = store_path("gone").base
    (store / gone).mkdir()
    (store / f"{filled.top.base}.lock").write_bytes(b"")
    (store / "tmp-1-2").mkdir()
    (store / "dangling").symlink_to("nowhere")
    expected = sorted([gone, f"{filled.top.base}.lock", "tmp-1-2", "dangling"])
    assert found(filled) == expected


def test_what_somebody_is_at_work_on(filled: Filled) -> None:
    store = filled.root / "nix/store"
    gone = store_path("gone").base
    (store / gone).mkdir()
    lock = store / f"{gone}.lock"
    lock.write_bytes(b"")
    with locked(lock):
        assert found(filled) == []
    lock.unlink()
    roots = filled.root / "nix/var/nix/temproots/99"
    roots.write_bytes(f"/nix/store/{gone}\0/nix/sto".encode())
    (store / f"{gone[:32]}-nixfetch.0123456789abcdef").mkdir()
    with locked(roots):
        assert found(filled) == []
    with locked(roots, fcntl.LOCK_SH):  # as Nix 2.8 keeps its own
        assert found(filled) == []
    assert len(found(filled)) == 2  # its writer is dead


def test_staging_of_a_live_process(filled: Filled) -> None:
    cache = SimulatedCache()
    path = cache.add("new", SAMPLE)
    nar = cache.objects[cache.nar_name(path)]
    with LocalStore(filled.root) as writer, writer.adding(cache.trusted(path)) as sink:
        sink.write(nar)
        assert len(list((filled.root / "nix/store").glob(f"{path.hash_part}*"))) >= 1
        assert found(filled) == []
        with filled.open(read_only=False) as store:
            assert leftovers(store) == []


def test_no_temporary_roots_to_be_seen(filled: Filled) -> None:
    roots = filled.root / "nix/var/nix/temproots"
    (roots / "odd").symlink_to("elsewhere")
    assert found(filled) == []
    (roots / "odd").unlink()
    roots.rmdir()
    assert found(filled) == []


class Unreadable(LocalStore):
    """Its directory is none."""

    _file = -1

    @property
    def fd(self) -> int:
        return self._file


def test_a_directory_that_cannot_be_listed(filled: Filled) -> None:
    with Path(os.devnull).open() as null, Unreadable(filled.root, read_only=True) as store:
        store._file = null.fileno()
        with pytest.raises(DiskError):
            leftovers(store)


def test_what_an_ordinary_user_may_not_see() -> None:
    code = """
import sys
from pathlib import Path
from filled_store import fill
from nixfetch.store.leftovers import leftovers
from unit.store.disk_trees import become_nobody
become_nobody()
filled = fill(Path(sys.argv[1]))
hidden = filled.root / "nix/store/hidden"
hidden.mkdir(mode=0)
with filled.open() as store:
    print(leftovers(store))
"""
    with place_of_nobody() as place:
        assert python(code, place) == "['hidden']\n"
