"""A store as a source."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from nixfetch.formats import listing
from nixfetch.formats.cacheinfo import CacheInfo
from nixfetch.formats.contentaddress import Method
from nixfetch.formats.nar import NarReader
from nixfetch.formats.narinfo import NarInfo
from nixfetch.serve import Object, StoreSource
from nixfetch.serve.store import ChangedPathError
from nixfetch.store import LocalStore
from simulated_cache import KEY, OTHER_KEY, Executable, Link, SimulatedCache, Tree, store_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath

TREE: Tree = {b"bin": {b"run": Executable(b"#!")}, b"data": b"x" * 100_000, b"to": Link(b"data")}


@pytest.fixture
def cache() -> SimulatedCache:
    return SimulatedCache()


@pytest.fixture
def path(cache: SimulatedCache) -> StorePath:
    library = cache.add("library", b"library")
    return cache.add("tool", TREE, references=[library, store_path("tool")], deriver=library)


@pytest.fixture
def store(tmp_path: Path, cache: SimulatedCache, path: StorePath) -> Iterator[LocalStore]:
    cache.add("text", b"text", ca=Method.TEXT)
    with LocalStore(tmp_path) as store:
        for info in cache.infos.values():
            with store.adding(cache.trusted(info.path)) as sink:
                sink.write(cache.objects[info.url])
        store.settle()
    with LocalStore(tmp_path, read_only=True) as store:
        yield store


def get(source: StoreSource, name: str) -> Object | None:
    with source.open(name) as found:
        return found


def read(source: StoreSource, name: str, start: int = 0) -> bytes:
    found = get(source, name)
    assert found is not None
    data = b"".join(found.read(start, found.size))
    assert len(data) == found.size - start
    return data


def test_what_it_says_of_itself(store: LocalStore) -> None:
    info = CacheInfo.parse(read(StoreSource(store), "nix-cache-info"))
    assert info == CacheInfo(want_mass_query=True, priority=30)


def test_each_path_with_its_nar(store: LocalStore, cache: SimulatedCache) -> None:
    source = StoreSource(store)
    for claimed in cache.infos.values():
        info = NarInfo.parse(read(source, f"{claimed.path.hash_part}.narinfo"))
        nar = read(source, info.url)
        assert info == replace(
            claimed, url=info.url, file_hash=info.nar_hash, file_size=info.nar_size
        )
        assert nar == cache.objects[claimed.url]


def test_a_nar_from_the_middle(store: LocalStore, cache: SimulatedCache, path: StorePath) -> None:
    source = StoreSource(store)
    url = NarInfo.parse(read(source, f"{path.hash_part}.narinfo")).url
    nar = cache.objects[cache.infos[path].url]
    for start in [1, 96, 97, 5000, len(nar) - 1]:
        assert read(source, url, start) == nar[start:]


def test_a_listing(store: LocalStore, cache: SimulatedCache, path: StorePath) -> None:
    raw = read(StoreSource(store), f"{path.hash_part}.ls")
    nar = cache.objects[cache.infos[path].url]
    assert listing.parse(raw) == listing.of_nar(NarReader().feed(nar))


def test_another_key_signs_what_is_served(store: LocalStore, path: StorePath) -> None:
    source = StoreSource(store, key=OTHER_KEY)
    info = NarInfo.parse(read(source, f"{path.hash_part}.narinfo"))
    assert {signature.key_name for signature in info.signatures} == {KEY.name, OTHER_KEY.name}
    added = next(sig for sig in info.signatures if sig.key_name == OTHER_KEY.name)
    assert OTHER_KEY.public().signed(added, info.fingerprint())


def test_the_same_key_signs_nothing_twice(store: LocalStore, path: StorePath) -> None:
    info = NarInfo.parse(read(StoreSource(store, key=KEY), f"{path.hash_part}.narinfo"))
    assert len(info.signatures) == 1


def test_what_is_not_valid_is_not_there(store: LocalStore, path: StorePath) -> None:
    source = StoreSource(store)
    other = store_path("stray")
    (store.layout.store / other.base).write_text("stray")
    info = NarInfo.parse(read(source, f"{path.hash_part}.narinfo"))
    right = info.nar_hash.base32
    for name in [
        f"{other.hash_part}.narinfo",
        f"{other.hash_part}.ls",
        f"nar/{other.hash_part}-{right}.nar",
        f"nar/{path.hash_part}-{'0' * 52}.nar",
        f"nar/{right}.nar",
        f"nar/{path.hash_part}-{right}.nar.xz",
        f"nar/{path.base}",
        f"{path.hash_part}.narinfo\n",
        f"../{path.hash_part}.narinfo",
        path.base,
        "",
    ]:
        assert get(source, name) is None, name


@pytest.mark.parametrize("change", ["flip", "grow", "shrink", "mode", "entry", "gone"])
def test_what_changed_on_disk_is_never_whole(
    store: LocalStore, path: StorePath, change: str
) -> None:
    source = StoreSource(store)
    url = NarInfo.parse(read(source, f"{path.hash_part}.narinfo")).url
    tree = store.physical(path)
    data = tree / "data"
    data.chmod(0o644)
    tree.chmod(0o755)
    match change:
        case "flip":
            data.write_bytes(b"x" * 99_999 + b"y")
        case "grow":
            data.write_bytes(b"x" * 200_000)
        case "shrink":
            data.write_bytes(b"x")
        case "mode":
            data.chmod(0o755)
        case "entry":
            (tree / "zzz").write_text("new")
        case _:
            data.unlink()
    found = get(source, url)
    assert found is not None
    sent: list[int] = []
    with pytest.raises(ChangedPathError) as caught:
        sent.extend(len(piece) for piece in found.read(0, found.size))
    assert sum(sent) < found.size
    assert caught.value.facts["path"] == path
    with pytest.raises(ChangedPathError):
        get(source, f"{path.hash_part}.ls")
