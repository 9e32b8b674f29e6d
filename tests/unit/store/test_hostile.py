"""What hostile NARs leave behind: nothing. Each one is signed: the parser alone can object."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nixfetch.errors import NixfetchError
from nixfetch.formats.hashes import sha256
from nixfetch.formats.nar import NarError
from nixfetch.formats.narinfo import NarInfo
from nixfetch.store import ContentMismatchError, LocalStore
from simulated_cache import KEY, POLICY, SimulatedCache, store_path
from unit.store.disk_trees import descriptors, entries, trees
from unit.store.hostile_nars import HOSTILE, OUTSIDE, cuts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nixfetch.plan.trust import Trusted

PATH = store_path("hostile")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStore]:
    top = tmp_path_factory.mktemp("hostile")
    (top / "outside").mkdir()
    with LocalStore(top / "root") as store:
        assert (store.layout.store / "x").joinpath(OUTSIDE.decode()).parent.resolve() == top
        cache = SimulatedCache()  # so that the shelf of new files is there, before and after
        feed(
            store,
            cache.trusted(path := cache.add("good", b"")),
            [cache.objects[cache.nar_name(path)]],
        )
        store.abandon()
        yield store


def signed(nar: bytes) -> Trusted:
    cache = SimulatedCache()
    info = NarInfo(path=PATH, url="nar/x", nar_hash=sha256(nar), nar_size=len(nar) or 1)
    cache.publish(info, key=KEY)
    return cache.trusted(PATH, POLICY)


def feed(store: LocalStore, trusted: Trusted, pieces: list[bytes]) -> None:
    with store.adding(trusted) as sink:
        for piece in pieces:
            sink.write(piece)


@pytest.mark.parametrize("size", [7, 1 << 20], ids=["in pieces", "at once"])
@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_left(store: LocalStore, name: str, size: int) -> None:
    nar = HOSTILE[name]
    before = descriptors()
    with pytest.raises(NixfetchError) as caught:
        feed(store, signed(nar), cuts(nar, size))
    # An empty archive has another size than any narinfo can claim.
    expected = ContentMismatchError if name == "empty-input" else NarError
    assert isinstance(caught.value, expected)
    assert caught.value.facts["path"] == PATH
    assert trees(store.layout.store) == []
    assert entries(store.root.parent) == ["outside", "root"]
    assert entries(store.root.parent / "outside") == []
    assert store.settle() == []
    assert store.all_valid() == []
    assert descriptors() == before
