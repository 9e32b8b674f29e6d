from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.fetch import fetch_closure
from nixfetch.plan.closure import CycleError
from nixfetch.plan.trust import UnsignedError
from nixfetch.report import (
    ClosureFailedError,
    NotValidError,
    closure,
    references_in_store,
    trusted_references,
)
from nixfetch.store import LocalStore
from simulated_cache import POLICY, Html, SimulatedCache, Unsigned, store_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath

A, B, C, D = map(store_path, "abcd")


def diamond() -> SimulatedCache:
    cache = SimulatedCache()
    cache.add("d")
    cache.add("c", references=[D])
    cache.add("b", references=[D, B])
    cache.add("a", references=[B, C, A])
    return cache


def asking(cache: SimulatedCache) -> Callable[[StorePath], tuple[StorePath, ...]]:
    return partial(trusted_references, caches=CacheGroup([BinaryCache(cache)]), policy=POLICY)


def test_references_come_first_and_ties_by_name() -> None:
    report = closure([A], ask=asking(diamond()))
    assert report.paths == (D, *sorted([B, C]), A)
    assert report.failures == ()


def test_no_nar_is_asked_for() -> None:
    cache = diamond()
    closure([A], ask=asking(cache))
    assert sorted(cache.opened) == sorted(f"{path.hash_part}.narinfo" for path in (A, B, C, D))


def test_what_nobody_vouches_for_is_an_error_and_so_is_all_above_it() -> None:
    cache = diamond()
    cache.faults[cache.narinfo_name(C)] = Unsigned()
    with pytest.raises(ClosureFailedError) as caught:
        closure([A, B], ask=asking(cache))
    assert caught.value.report.paths == (D, B)
    [lost] = caught.value.report.failures
    assert lost.path == C
    assert isinstance(lost.error, UnsignedError)
    assert lost.error.facts["needed_by"] == [str(A)]
    assert caught.value.exit_code == 4


def test_the_gravest_failure_counts() -> None:
    cache = diamond()
    gone = store_path("gone")
    cache.faults[cache.narinfo_name(D)] = Html()
    with pytest.raises(ClosureFailedError) as caught:
        closure([A, gone], ask=asking(cache))
    assert caught.value.report.paths == ()
    assert {lost.path for lost in caught.value.report.failures} == {D, gone}
    assert caught.value.exit_code == 4


def test_a_missing_path_alone_is_exit_code_3() -> None:
    with pytest.raises(ClosureFailedError) as caught:
        closure([B, store_path("gone")], ask=asking(diamond()))
    assert caught.value.report.paths == (D, B)
    assert caught.value.exit_code == 3


def test_a_circle_is_an_error() -> None:
    cache = SimulatedCache()
    cache.add("a", references=[B])
    cache.add("b", references=[A])
    with pytest.raises(CycleError):
        closure([A], ask=asking(cache))


def test_the_closure_in_a_store(tmp_path: Path) -> None:
    cache = diamond()
    with LocalStore(tmp_path) as store:
        caches = CacheGroup([BinaryCache(cache)])
        fetch_closure([A], caches=caches, policy=POLICY, store=store)
        ask = partial(references_in_store, store=store)
        assert closure([A], ask=ask, threads=1) == closure([A], ask=asking(cache))
        with pytest.raises(ClosureFailedError) as caught:
            closure([store_path("gone")], ask=ask, threads=1)
    [lost] = caught.value.report.failures
    assert isinstance(lost.error, NotValidError)
    assert caught.value.exit_code == 3
