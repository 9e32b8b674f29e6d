"""Registered paths whose trees are gone from the disk: nobody calls them present."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from nixfetch.fetch import FetchFailedError, Status
from nixfetch.store import LocalStore
from nixfetch.store.gone import TreeGoneError
from simulated_cache import SimulatedCache
from unit.fetch.runs import failing_fetch, fetch, graph

if TYPE_CHECKING:
    from pathlib import Path


def test_a_path_that_is_gone_fails_and_others_are_fetched(tmp_path: Path) -> None:
    cache = SimulatedCache()
    paths = graph(cache, {"low": [], "top": ["low"], "other": []})
    with LocalStore(tmp_path) as store:
        fetch(store, cache, [paths["low"]])
        shutil.rmtree(store.physical(paths["low"]))
        error = failing_fetch(store, cache, [paths["top"], paths["other"]])
        assert error.exit_code == 6
        [failed] = error.report.failures
        assert isinstance(failed.error, TreeGoneError)
        assert failed.path == failed.error.facts["path"] == paths["low"]
        assert failed.error.facts["needed_by"] == [str(paths["top"])]
        assert failed.error.hint is not None
        assert f"nixfetch verify --repair {paths['low']}" in failed.error.hint
        assert error.report.paths[paths["other"]].status is Status.FETCHED
        assert store.valid(paths.values()) == set(paths.values())


@pytest.mark.parametrize("dry_run", [False, True])
def test_in_a_store_that_is_only_read_as_well(tmp_path: Path, dry_run: bool) -> None:
    cache = SimulatedCache()
    path = cache.add("a")
    with LocalStore(tmp_path) as store:
        fetch(store, cache, [path])
        store.physical(path).unlink()
    with (
        LocalStore(tmp_path, read_only=dry_run) as store,
        pytest.raises(FetchFailedError) as caught,
    ):
        fetch(store, cache, [path], dry_run=dry_run)
    assert caught.value.exit_code == 6


def test_a_link_that_leads_nowhere_is_there(tmp_path: Path) -> None:
    cache = SimulatedCache()
    path = cache.add("a")
    with LocalStore(tmp_path) as store:
        fetch(store, cache, [path])
        store.physical(path).unlink()
        store.physical(path).symlink_to("/nowhere")  # a store path may be one
        assert store.gone([path]) == {}
