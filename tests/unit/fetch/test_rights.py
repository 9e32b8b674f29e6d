"""Who may make a path valid, and how many locks that takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nixfetch.cache import BinaryCache, CacheGroup, Found
from nixfetch.fetch.rights import POLL, Right, Rights
from nixfetch.store import LocalStore
from simulated_cache import POLICY, SimulatedCache

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from nixfetch.formats.storepath import StorePath


def found(count: int) -> list[Found]:
    cache = SimulatedCache()
    paths = [cache.add(str(number)) for number in range(count)]
    with CacheGroup([BinaryCache(cache)]) as group:
        return [group.find(path, POLICY) for path in paths]


def path_of(found: Found) -> StorePath:
    return found.trusted.info.path


def locked(store: LocalStore) -> list[str]:
    names = [file.name for file in store.layout.store.iterdir()]
    return [name.removesuffix(".lock") for name in names if name.endswith(".lock")]


def test_finished_paths_hold_only_so_many_locks(tmp_path: Path) -> None:
    every = found(10)
    with LocalStore(tmp_path) as store:
        rights = Rights(store, most=3)
        for each in every[:-1]:
            assert rights.take(each) is Right.OURS
            rights.finished(path_of(each))
        assert rights.take(every[-1]) is Right.OURS  # and is not finished
        assert sorted(locked(store)) == sorted(path_of(each).base for each in every[-4:])
        rights.settled([path_of(every[-2])])
        rights.finished(path_of(every[-1]))
        assert len(locked(store)) == 4  # the store itself lets go of what is settled


def test_whose_it_is(tmp_path: Path) -> None:
    [one, two] = found(2)
    with LocalStore(tmp_path) as other, LocalStore(tmp_path) as store:
        rights = Rights(store)
        assert other.try_lock(path_of(one))
        assert rights.take(one) is Right.THEIRS
        assert rights.take(two) is Right.OURS
        assert rights
        assert rights.look() == (set(), [])
        other.unlock(path_of(one))
        late = Rights(store)
        assert late.take(one) is Right.OURS
        late.give(path_of(one))
        assert locked(store) == [path_of(two).base]


def test_who_only_waits_for_others_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [one] = found(1)
    with LocalStore(tmp_path) as other, LocalStore(tmp_path) as store:
        rights = Rights(store, patience=0.0)
        assert other.try_lock(path_of(one))
        assert rights.take(one) is Right.THEIRS
        rights.look()
        assert caplog.text == ""
        for _ in range(3):
            time.sleep(2 * POLL)
            rights.look(idle=True)
        assert caplog.text.count("another process fetches") == 1
        assert f"{path_of(one).base}.lock" in caplog.text
