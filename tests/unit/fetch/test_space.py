"""What does not fit on the disk of the store is not begun, and one is told how much it is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from nixfetch.fetch import Event, Found
from nixfetch.fetch.space import NotEnoughSpaceError
from nixfetch.store import LocalStore
from simulated_cache import KEY, SimulatedCache
from unit.fetch.runs import fetch, graph, names_in

if TYPE_CHECKING:
    from pathlib import Path


def test_all_that_is_missing_is_added_up(tmp_path: Path) -> None:
    cache = SimulatedCache()
    paths = graph(cache, {"a": [], "b": ["a"], "c": ["b"], "top": ["c"]})
    events: list[Event] = []
    with LocalStore(tmp_path) as store:
        fetch(store, cache, [paths["a"]])
        cache.requests.clear()
        free = store.free_space()
        with pytest.raises(NotEnoughSpaceError, match="no space left") as caught:
            fetch(store, cache, [paths["top"]], min_free=2 * free, on_event=events.append)
        assert names_in(store) == [paths["a"].base]
    missing = [cache.infos[paths[name]].nar_size for name in ("top", "c", "b")]
    assert [event.nar_size for event in events if isinstance(event, Found)] == missing
    facts = caught.value.facts
    assert facts["needed_bytes"] == sum(missing)
    assert facts["min_free_bytes"] == 2 * free
    assert isinstance(facts["free_bytes"], int)
    assert abs(facts["free_bytes"] - free) < free / 2  # others write to that disk as well
    assert caught.value.exit_code == 6
    assert caught.value.hint is not None
    assert "--min-free" in caught.value.hint
    assert "nixfetch gc" in caught.value.hint
    assert cache.opened_nars == []


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    cache = SimulatedCache()
    path = cache.add("huge")
    cache.publish(replace(cache.infos[path], nar_size=2**60), key=KEY)
    with LocalStore(tmp_path) as store:
        with pytest.raises(NotEnoughSpaceError) as caught:
            fetch(store, cache, [path])
        assert names_in(store) == []
    assert caught.value.facts["needed_bytes"] == 2**60
    assert "min_free_bytes" not in caught.value.facts
    assert caught.value.hint is not None
    assert "--min-free" not in caught.value.hint


def test_nothing_to_fetch_needs_no_room(tmp_path: Path) -> None:
    cache = SimulatedCache()
    path = cache.add("a")
    with LocalStore(tmp_path) as store:
        fetch(store, cache, [path])
        fetch(store, cache, [path], min_free=2 * store.free_space())
