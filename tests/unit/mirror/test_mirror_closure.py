from __future__ import annotations

import threading
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mirror_walk import walk
from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.errors import NixfetchError, TrustError
from nixfetch.fetch import progress
from nixfetch.fetch.closure import CancelledError
from nixfetch.formats import listing
from nixfetch.formats.hashes import sha256
from nixfetch.formats.nar import NarReader
from nixfetch.formats.narinfo import NarInfo
from nixfetch.mirror import (
    DestinationError,
    MirrorFailedError,
    MirrorReport,
    MirrorStatus,
    Recipe,
    Sources,
    mirror_closure,
    open_mirror,
)
from nixfetch.plan.retry import RetrySchedule
from nixfetch.streams import codecs
from simulated_cache import (
    KEY,
    OTHER_KEY,
    POLICY,
    CutAfter,
    Endless,
    FlippedByte,
    Missing,
    SimulatedCache,
    Slow,
    Unsigned,
    store_path,
    tree_nar,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath

TREE = {b"bin": {b"x": b"content " * 1000}}


@pytest.fixture
def cache() -> SimulatedCache:
    return SimulatedCache(priority=40)


@pytest.fixture
def chain(cache: SimulatedCache) -> list[StorePath]:
    """Four paths, each refers to all before it and to itself."""
    paths: list[StorePath] = []
    for name in ("glibc", "bash", "python", "tool"):
        references = [*paths, store_path(name)]
        paths.append(cache.add(name, {b"f": name.encode() * 999}, references=references))
    return paths


class Mirror:
    """One, in a directory, and who copies to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def copy(self, paths: list[StorePath], *caches: SimulatedCache, **how: object) -> MirrorReport:
        policy = how.pop("policy", POLICY)
        schedule = RetrySchedule(tries=2, base=0.0)
        remotes = [BinaryCache(cache, retry=schedule) for cache in caches]
        with ExitStack() as stack:
            group = stack.enter_context(CacheGroup(remotes))
            destination = stack.enter_context(closing(open_mirror(str(self.directory))))
            sources = Sources(group, policy)  # type: ignore[arg-type]
            return mirror_closure(paths, sources=sources, destination=destination, **how)  # type: ignore[arg-type]

    def read(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()

    def info(self, path: StorePath) -> NarInfo:
        return NarInfo.parse(self.read(f"{path.hash_part}.narinfo"))

    @property
    def names(self) -> set[str]:
        return {
            str(file.relative_to(self.directory))
            for file in self.directory.rglob("*")
            if file.is_file()
        }


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    mirror = Mirror(tmp_path / "mirror")
    yield mirror
    if mirror.directory.exists():
        assert walk(mirror.directory).sins == ()
        assert not (mirror.directory / ".nixfetch").exists()


def test_byte_for_byte(mirror: Mirror, cache: SimulatedCache, chain: list[StorePath]) -> None:
    report = mirror.copy([chain[-1]], cache)
    assert {path: entry.status for path, entry in report.paths.items()} == dict.fromkeys(
        chain, MirrorStatus.COPIED
    )
    assert all(entry.exact for entry in report.paths.values())
    assert mirror.names == set(cache.objects)
    for name, data in cache.objects.items():
        if name != "nix-cache-info":
            assert mirror.read(name) == data
    assert b"Priority: 30" in mirror.read("nix-cache-info")
    assert report.bytes_sent == sum(info.file_size or 0 for info in cache.infos.values())


def test_a_second_time_nothing_is_asked_for(
    mirror: Mirror, cache: SimulatedCache, chain: list[StorePath]
) -> None:
    mirror.copy([chain[-1]], cache)
    cache.requests.clear()
    report = mirror.copy([chain[-1]], cache)
    assert {entry.status for entry in report.paths.values()} == {MirrorStatus.PRESENT}
    assert set(report.paths) == set(chain)
    assert cache.requests == []


def test_a_reference_that_went_away_is_put_back(
    mirror: Mirror, cache: SimulatedCache, chain: list[StorePath]
) -> None:
    mirror.copy([chain[-1]], cache)
    (mirror.directory / cache.narinfo_name(chain[0])).unlink()
    report = mirror.copy([chain[-1]], cache)
    assert [entry.path for entry in report.those(MirrorStatus.COPIED)] == [chain[0]]
    assert report.bytes_sent == 0  # its file was there


def test_a_narinfo_that_is_none_is_replaced(
    mirror: Mirror, cache: SimulatedCache, chain: list[StorePath]
) -> None:
    mirror.copy([chain[0]], cache)
    name = cache.narinfo_name(chain[0])
    (mirror.directory / name).write_bytes(b"half of")
    mirror.copy([chain[0]], cache)
    assert mirror.read(name) == cache.objects[name]
    other = cache.objects[name].replace(b"-glibc", b"-other")
    (mirror.directory / name).write_bytes(other)
    mirror.copy([chain[0]], cache)
    assert mirror.read(name) == cache.objects[name]


def test_its_own_nix_cache_info_is_kept(mirror: Mirror, cache: SimulatedCache) -> None:
    mirror.directory.mkdir()
    text = b"StoreDir: /nix/store\nPriority: 7\n"
    (mirror.directory / "nix-cache-info").write_bytes(text)
    mirror.copy([cache.add("x")], cache)
    assert mirror.read("nix-cache-info") == text


def test_a_mirror_of_another_store(mirror: Mirror, cache: SimulatedCache) -> None:
    mirror.directory.mkdir()
    (mirror.directory / "nix-cache-info").write_bytes(b"StoreDir: /gnu/store\n")
    with pytest.raises(DestinationError, match="another store directory"):
        mirror.copy([cache.add("x")], cache)
    assert cache.opened == []


def test_no_nar_before_its_narinfo_is_trusted(mirror: Mirror, cache: SimulatedCache) -> None:
    path = cache.add("x", TREE)
    cache.faults[cache.narinfo_name(path)] = Unsigned()
    with pytest.raises(MirrorFailedError) as caught:
        mirror.copy([path], cache)
    assert caught.value.exit_code == 4
    assert cache.opened_nars == []
    assert mirror.names == {"nix-cache-info"}


def test_a_path_that_is_nowhere_takes_its_referrers_with_it(
    mirror: Mirror, cache: SimulatedCache, chain: list[StorePath]
) -> None:
    cache.faults[cache.narinfo_name(chain[1])] = Missing()
    with pytest.raises(MirrorFailedError) as caught:
        mirror.copy([chain[-1]], cache)
    assert caught.value.exit_code == 3
    report = caught.value.report
    assert report.paths[chain[0]].status is MirrorStatus.COPIED
    assert [entry.path for entry in report.failures] == chain[3:0:-1] or len(report.failures) == 3
    assert "references are not in the mirror" in str(report.paths[chain[2]].error)
    assert walk(mirror.directory).paths == {chain[0].base}
    del cache.faults[cache.narinfo_name(chain[1])]
    mirror.copy([chain[-1]], cache)


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(verify_nar=True), Recipe(listing=True)])
def test_a_wrong_file_is_refused(mirror: Mirror, cache: SimulatedCache, recipe: Recipe) -> None:
    path = cache.add("x", TREE, compression="none")
    cache.faults[cache.nar_name(path)] = FlippedByte(1000)
    with pytest.raises(MirrorFailedError) as caught:
        mirror.copy([path], cache, recipe=recipe)
    assert caught.value.exit_code == 4
    error = caught.value.report.paths[path].error
    assert isinstance(error, TrustError)
    assert error.problem == "file has the wrong hash"
    assert mirror.names == {"nix-cache-info"}


def test_the_right_nar_under_a_wrong_hash_of_its_file(
    mirror: Mirror, cache: SimulatedCache
) -> None:
    path = cache.add("x", TREE)
    cache.publish(replace(cache.infos[path], file_hash=sha256(b"other")), key=KEY)
    with pytest.raises(MirrorFailedError, match="not mirrored"):
        mirror.copy([path], cache)
    cache.publish(replace(cache.infos[path], file_hash=None, file_size=17), key=KEY)
    with pytest.raises(MirrorFailedError, match="not mirrored"):
        mirror.copy([path], cache)


def test_another_nar_under_its_right_hash(mirror: Mirror, cache: SimulatedCache) -> None:
    """Nobody signs the hash of a file: only looking into it tells."""
    path, other = cache.add("x", TREE), cache.add("other", b"other")
    theirs = cache.infos[other]
    lie = replace(
        cache.infos[path],
        url=theirs.url,
        file_hash=theirs.file_hash,
        file_size=theirs.file_size,
    )
    cache.publish(lie, key=KEY)
    with pytest.raises(MirrorFailedError) as caught:
        mirror.copy([path], cache, recipe=Recipe(verify_nar=True))
    error = caught.value.report.paths[path].error
    assert error is not None
    assert error.problem == "archive has the wrong size"


@pytest.mark.parametrize("size", [None, 2**50])
def test_a_file_without_end(mirror: Mirror, cache: SimulatedCache, size: int | None) -> None:
    """Nobody signs its size."""
    path = cache.add("x", TREE)
    cache.publish(replace(cache.infos[path], file_size=size), key=KEY)
    cache.faults[cache.nar_name(path)] = Endless()
    with pytest.raises(MirrorFailedError) as caught:
        mirror.copy([path], cache)
    assert "file is larger than it can be" in str(caught.value.report.paths[path].error)


def test_the_next_cache_is_asked(mirror: Mirror) -> None:
    one, other = SimulatedCache(priority=10, url="one://"), SimulatedCache(priority=20)
    path = one.add("x", TREE)
    other.add("x", TREE)
    one.faults[one.nar_name(path)] = FlippedByte(1000)
    report = mirror.copy([path], one, other)
    assert report.paths[path].cache == other.url
    assert report.paths[path].attempts == 2


def test_a_body_that_breaks_off_goes_on(mirror: Mirror, cache: SimulatedCache) -> None:
    path = cache.add("x", TREE)
    cache.faults[cache.nar_name(path)] = CutAfter(5000, 1)
    mirror.copy([path], cache)
    assert [request.wanted.start for request in cache.requests if request.wanted] == [5000]


def test_without_a_hash_of_the_file_the_nar_is_looked_at(
    mirror: Mirror, cache: SimulatedCache
) -> None:
    path = cache.add("x", TREE)
    info = replace(cache.infos[path], file_hash=None, file_size=None)
    cache.publish(info, key=KEY)
    cache.faults[info.url] = FlippedByte(1000)
    with pytest.raises(MirrorFailedError) as caught:
        mirror.copy([path], cache)
    assert "archive has the wrong hash" in str(caught.value.report.paths[path].error)


@pytest.mark.parametrize("url", ["{part}.narinfo", "nix-cache-info", "deep/down/x.nar"])
def test_a_url_that_names_something_else(mirror: Mirror, cache: SimulatedCache, url: str) -> None:
    """Nobody signs it: in the mirror the file has another name, and signatures stay."""
    other = cache.add("other")
    path = cache.add("x", TREE)
    info = cache.infos[path]
    bad = url.format(part=other.hash_part)
    cache.publish(replace(info, url=bad), key=KEY)
    evil = SimulatedCache(objects={**cache.objects, bad: cache.objects[info.url]})
    report = mirror.copy([path], evil)
    assert report.paths[path].exact is False
    copied = mirror.info(path)
    assert copied.file_hash is not None
    assert copied.url == f"nar/{copied.file_hash.base32}.nar"
    assert copied.signatures == info.signatures
    assert mirror.names == {"nix-cache-info", cache.narinfo_name(path), copied.url}


def test_a_name_that_another_file_has(mirror: Mirror) -> None:
    """Two caches call different files the same: neither path gets the other's."""
    one, other = SimulatedCache(), SimulatedCache()
    first, second = one.add("first", b"1" * 500), other.add("second", b"2" * 500)
    for cache, path in ((one, first), (other, second)):
        file = cache.objects[cache.nar_name(path)]
        cache.publish(replace(cache.infos[path], url="nar/same.nar"), key=KEY)
        cache.objects["nar/same.nar"] = file
    mirror.copy([first], one)
    mirror.copy([second], other)
    assert mirror.info(first).url == "nar/same.nar"
    assert mirror.info(second).url != "nar/same.nar"


def test_a_name_that_its_own_file_has(mirror: Mirror, cache: SimulatedCache) -> None:
    path = cache.add("x", TREE)
    file = cache.objects[cache.nar_name(path)]
    cache.publish(replace(cache.infos[path], url="nar/same.nar"), key=KEY)
    cache.objects["nar/same.nar"] = file
    mirror.copy([path], cache)
    (mirror.directory / cache.narinfo_name(path)).unlink()
    cache.requests.clear()
    report = mirror.copy([path], cache)
    assert report.paths[path].exact
    assert cache.opened_nars == []


@pytest.mark.parametrize("compression", ["none", "xz", "zstd", "gzip"])
def test_compressed_anew(mirror: Mirror, cache: SimulatedCache, compression: str) -> None:
    path = cache.add("x", TREE, compression=compression)  # type: ignore[arg-type]
    report = mirror.copy([path], cache, recipe=Recipe(recompress=True, level=3))
    info = mirror.info(path)
    assert info.compression == "zstd"
    assert info.signatures == cache.infos[path].signatures
    file = mirror.read(info.url)
    assert b"".join(codecs.decode("zstd", [file])) == tree_nar(TREE)
    assert report.bytes_sent == len(file) == info.file_size
    assert mirror.copy([path], cache).bytes_sent == 0


def test_compressed_anew_from_a_wrong_file(mirror: Mirror, cache: SimulatedCache) -> None:
    path = cache.add("x", TREE)
    cache.faults[cache.nar_name(path)] = FlippedByte(1000)
    with pytest.raises(MirrorFailedError):
        mirror.copy([path], cache, recipe=Recipe(recompress=True))
    assert mirror.names == {"nix-cache-info"}


def test_signed_besides(mirror: Mirror, cache: SimulatedCache) -> None:
    path = cache.add("x")
    mirror.copy([path], cache, recipe=Recipe(key=OTHER_KEY))
    info = mirror.info(path)
    assert {signature.key_name for signature in info.signatures} == {KEY.name, OTHER_KEY.name}
    assert OTHER_KEY.public().signed(OTHER_KEY.sign(info.fingerprint()), info.fingerprint())
    again = cache.add("y")
    mirror.copy([again], cache, recipe=Recipe(key=KEY))
    assert mirror.read(cache.narinfo_name(again)) == cache.objects[cache.narinfo_name(again)]


def test_listings(mirror: Mirror, cache: SimulatedCache) -> None:
    path = cache.add("x", TREE, compression="xz")
    mirror.copy([path], cache, recipe=Recipe(listing=True))
    expected = listing.of_nar(NarReader().feed(tree_nar(TREE)))
    assert listing.parse(mirror.read(f"{path.hash_part}.ls")) == expected


def test_unknown_fields_stay(mirror: Mirror, cache: SimulatedCache) -> None:
    path = cache.add("x")
    name = cache.narinfo_name(path)
    cache.objects[name] += b"Mood: good\r\n"
    mirror.copy([path], cache)
    assert mirror.read(name) == cache.objects[name]


def test_a_dry_run_makes_nothing(
    mirror: Mirror, cache: SimulatedCache, chain: list[StorePath]
) -> None:
    report = mirror.copy([chain[-1]], cache, dry_run=True)
    assert len(report.those(MirrorStatus.WANTED)) == 4
    assert not mirror.directory.exists()
    mirror.copy([chain[0]], cache)
    report = mirror.copy([chain[-1]], cache, dry_run=True)
    assert len(report.those(MirrorStatus.WANTED)) == 3


def test_events(mirror: Mirror, cache: SimulatedCache, chain: list[StorePath]) -> None:
    events: list[progress.Event] = []
    mirror.copy([chain[1]], cache, on_event=events.append)
    walked = [event for event in events if isinstance(event, progress.Walked)]
    size = sum(cache.infos[path].file_size or 0 for path in chain[:2])
    assert [(event.paths, event.file_size) for event in walked] == [(2, size)]
    fetched = [event.path for event in events if isinstance(event, progress.Fetched)]
    assert fetched == chain[:2]  # references first
    advanced = [event for event in events if isinstance(event, progress.Advanced)]
    assert sum(event.downloaded for event in advanced) == size


def test_no_more_are_begun(mirror: Mirror, cache: SimulatedCache, chain: list[StorePath]) -> None:
    answers = iter([None, "enough"])
    with pytest.raises(MirrorFailedError) as caught:
        mirror.copy([chain[-1]], cache, enough=lambda: next(answers), copies=1)
    report = caught.value.report
    assert report.stopped == "enough"
    assert caught.value.exit_code == 3
    assert len(cache.opened_nars) == 1
    mirror.copy([chain[-1]], cache)


def test_cancelled(mirror: Mirror, cache: SimulatedCache) -> None:
    path = cache.add("x", {b"f": bytes(10**6)})
    cache.faults[cache.nar_name(path)] = Slow(gate := threading.Event(), 70_000)

    def cancelled() -> bool:
        if cache.opened_nars:
            gate.set()
        return gate.is_set()

    with pytest.raises(CancelledError):
        mirror.copy([path], cache, cancelled=cancelled)
    assert walk(mirror.directory).paths == frozenset()


def test_a_mirror_that_cannot_be_written_ends_the_run(
    tmp_path: Path, cache: SimulatedCache, chain: list[StorePath]
) -> None:
    directory = tmp_path / "mirror"
    directory.mkdir()
    (directory / "nar").write_bytes(b"not a directory")
    with pytest.raises(DestinationError) as caught:
        Mirror(directory).copy(chain, cache)
    assert caught.value.exit_code == 6
    report = caught.value.so_far
    assert report is not None
    assert {entry.status for entry in report.paths.values()} == {MirrorStatus.FAILED}


def test_the_report_as_json(mirror: Mirror, cache: SimulatedCache) -> None:
    path = cache.add("x", TREE)
    lost = store_path("lost")
    with pytest.raises(MirrorFailedError) as caught:
        mirror.copy([path, lost], cache)
    found = caught.value.report.to_json()
    assert found["requested"] == [str(path), str(lost)]
    by_path = {entry["path"]: entry for entry in found["paths"]}
    assert by_path[str(path)]["status"] == "copied"
    assert by_path[str(path)]["signed_by"] == [KEY.name]
    assert by_path[str(lost)]["error"].startswith("path is in no cache")
    assert isinstance(caught.value, NixfetchError)
