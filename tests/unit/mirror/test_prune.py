from __future__ import annotations

import os
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from mirror_walk import walk
from nixfetch.mirror import open_mirror
from nixfetch.mirror.prune import YOUNG, KeptPathLackingError, Pruned, prune_mirror
from simulated_cache import SimulatedCache, store_path

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath


@pytest.fixture
def cache(tmp_path: Path) -> SimulatedCache:
    """base <- one <- app, base <- two, alone; in a directory."""
    cache = SimulatedCache()
    base = cache.add("base", b"base")
    one = cache.add("one", b"one", references=[base, store_path("one")])
    cache.add("app", b"app", references=[one])
    cache.add("two", b"two", references=[base])
    cache.add("alone", b"alone")
    cache.dump(tmp_path / "mirror")
    for path in cache.infos:
        (tmp_path / "mirror" / f"{path.hash_part}.ls").write_bytes(b"{}")
    return cache


def prune(directory: Path, keep: Collection[StorePath], **how: object) -> Pruned:
    with closing(open_mirror(str(directory))) as mirror:
        return prune_mirror(mirror, keep=keep, **how)  # type: ignore[arg-type]


def names(directory: Path) -> set[str]:
    return {path.partition("-")[2] for path in walk(directory).paths}


def test_the_closures_of_what_is_kept_stay(tmp_path: Path, cache: SimulatedCache) -> None:
    mirror = tmp_path / "mirror"
    dry = prune(mirror, [store_path("one")], dry_run=True)
    assert names(mirror) == {"base", "one", "app", "two", "alone"}
    pruned = prune(mirror, [store_path("one")])
    assert walk(mirror).sins == ()
    assert names(mirror) == {"base", "one"}
    assert len(list(mirror.glob("nar/*"))) == len(list(mirror.glob("*.ls"))) == 2
    assert pruned.kept == 2
    assert set(pruned.removed) == {store_path(name) for name in ("app", "two", "alone")}
    assert pruned.files == sorted(cache.nar_name(path) for path in pruned.removed)
    assert pruned.bytes_freed == sum(cache.infos[path].file_size or 0 for path in pruned.removed)
    assert {**dry.to_json(), "dry_run": False} == pruned.to_json()


def test_referrers_go_first(tmp_path: Path, cache: SimulatedCache) -> None:
    pruned = prune(tmp_path / "mirror", [])
    order = [path.base.partition("-")[2] for path in pruned.removed]
    assert order.index("app") < order.index("one") < order.index("base")
    assert order.index("two") < order.index("base")


def test_a_kept_closure_that_is_not_whole(tmp_path: Path, cache: SimulatedCache) -> None:
    mirror = tmp_path / "mirror"
    (mirror / cache.narinfo_name(store_path("base"))).unlink()
    before = sorted(mirror.rglob("*"))
    with pytest.raises(KeptPathLackingError) as caught:
        prune(mirror, [store_path("app")])
    assert caught.value.facts["path"] == store_path("base")
    assert caught.value.facts["needed_by"] == [str(store_path("app")), str(store_path("one"))]
    with pytest.raises(KeptPathLackingError):
        prune(mirror, [store_path("never-there")])
    assert sorted(mirror.rglob("*")) == before


def test_a_file_that_two_share(tmp_path: Path, cache: SimulatedCache) -> None:
    mirror = tmp_path / "mirror"
    app, alone = store_path("app"), store_path("alone")
    text = (mirror / cache.narinfo_name(alone)).read_text()
    text = text.replace(cache.nar_name(alone), cache.nar_name(app))
    (mirror / cache.narinfo_name(alone)).write_text(text)
    prune(mirror, [app])
    assert (mirror / cache.nar_name(app)).exists()


def test_files_of_no_narinfo(tmp_path: Path, cache: SimulatedCache) -> None:
    """A young one may be of a copy that is at work."""
    mirror = tmp_path / "mirror"
    old, young = mirror / "nar/old.nar", mirror / "nar/young.nar"
    for file in (old, young):
        file.write_bytes(b"x")
    before = time.time() - YOUNG - 60
    os.utime(old, (before, before))
    assert prune(mirror, cache.infos).files == ["nar/old.nar"]
    assert young.exists()
    assert prune(mirror, cache.infos, now=lambda: time.time() + YOUNG + 60).files == [
        "nar/young.nar"
    ]


def test_narinfos_that_are_none_go(tmp_path: Path, cache: SimulatedCache) -> None:
    mirror = tmp_path / "mirror"
    alone = store_path("alone")
    (mirror / cache.narinfo_name(alone)).write_bytes(b"rubbish")
    pruned = prune(mirror, [store_path("app")])
    assert pruned.bad == [alone.hash_part]
    assert names(mirror) == {"base", "one", "app"}
    assert walk(mirror).sins == ()
