"""Caches that real Nix wrote, in every compression and with every content address."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from data_dir import data_dir
from nixfetch.formats import listing
from nixfetch.formats.cacheinfo import CacheInfo
from nixfetch.formats.hashes import sha256
from nixfetch.formats.nar import NarReader, Regular
from nixfetch.formats.narinfo import NarInfo
from nixfetch.formats.signing import PublicKey
from nixfetch.plan.content import WrongContentError, content_check
from nixfetch.plan.trust import TrustPolicy
from nixfetch.streams.codecs import UnsupportedCompressionError, decode
from trees import read

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[3]
UNSIGNED = "cdbg"  # all of it content-addressed
HOPELESS = "c-compress"  # a compression that we do not do
OLD = "c28-xz"  # written by 2.8, whose listings have another order of keys
KINDS = {
    "text:sha256", "fixed:sha256", "fixed:sha1", "fixed:git:sha1",
    "fixed:r:md5", "fixed:r:sha256", "fixed:r:sha512", "fixed:r:blake3",
}  # fmt: skip


@pytest.fixture(params=["collected", "fixtures"])
def caches(request: pytest.FixtureRequest) -> list[Path]:
    """The folders of all caches."""
    if request.param == "fixtures":
        return sorted(REPOSITORY.glob("fixtures/cache-*"))
    return sorted(folder for folder in data_dir("nix-caches").iterdir() if folder.is_dir())


def narinfos(caches: list[Path]) -> Iterator[tuple[Path, NarInfo]]:
    """Every narinfo, and the folder of its cache."""
    files = [file for cache in caches for file in sorted(cache.glob("*.narinfo"))]
    assert files
    for file in files:
        yield file.parent, NarInfo.parse(file.read_bytes())


def nar(cache: Path, info: NarInfo) -> bytes:
    return b"".join(decode(info.compression, [(cache / info.url).read_bytes()]))


def with_nars(caches: list[Path]) -> Iterator[tuple[Path, NarInfo, bytes]]:
    for cache, info in narinfos(caches):
        if cache.name != HOPELESS:
            yield cache, info, nar(cache, info)


def check(info: NarInfo, data: bytes) -> None:
    """Judge the content of `info`; nothing is refused where nothing addresses it."""
    judge = content_check(info)
    if judge is None:
        return
    judge.update(data)
    for event in NarReader().feed(data):
        judge.apply(event)
    judge.finish()


def test_narinfos_are_written_as_nix_writes_them(caches: list[Path]) -> None:
    for cache, info in narinfos(caches):
        assert info.render() == info.raw
        file = cache / info.url
        assert info.file_hash == sha256(file.read_bytes())
        assert info.file_size == file.stat().st_size


def test_the_signatures_of_the_collected_caches_verify() -> None:
    folder = data_dir("nix-caches")
    key = PublicKey.parse((folder / "test-1.pub").read_text().strip())
    count = 0
    for cache, info in narinfos([path for path in folder.iterdir() if path.is_dir()]):
        if cache.name == UNSIGNED:
            assert not info.signatures
            continue
        [signature] = info.signatures
        assert key.signed(signature, info.fingerprint())
        assert TrustPolicy((key,)).admit(info).signed_by == ("test-1",)
        count += 1
    assert count > 80


def test_the_signatures_of_our_fixtures_verify() -> None:
    keys = tuple(
        PublicKey.parse((REPOSITORY / f"fixtures/keys/fixture-{n}.public").read_text().strip())
        for n in (1, 2)
    )
    signed_by = set()
    for _, info in narinfos(sorted(REPOSITORY.glob("fixtures/cache-*"))):
        trusted = TrustPolicy(keys).admit(info)
        assert len(trusted.signed_by) == len(info.signatures)
        signed_by |= {trusted.signed_by}
    assert signed_by == {(), ("fixture-1",), ("fixture-1", "fixture-2")}


def test_content_addresses_give_the_paths(caches: list[Path]) -> None:
    for _, info in narinfos(caches):
        if info.ca is not None:
            assert info.ca.is_address_of(info.path, info.references)
            assert not info.ca.is_address_of(info.path, {*info.references} ^ {info.path})


def test_every_kind_of_content_address_is_there() -> None:
    folder = data_dir("nix-caches")
    infos = (info for _, info in narinfos([path for path in folder.iterdir() if path.is_dir()]))
    assert {str(info.ca).rpartition(":")[0] for info in infos} == KINDS


def test_nars_and_their_listings(caches: list[Path]) -> None:
    for cache, info, data in with_nars(caches):
        assert sha256(data) == info.nar_hash
        assert len(data) == info.nar_size
        root = listing.of_nar(read([data]))
        written = cache / f"{info.path.hash_part}.ls"
        if written.exists():
            assert listing.parse(written.read_bytes()) == root
            if cache.name != OLD:
                assert listing.render(root) == written.read_bytes()


def test_contents_are_what_the_addresses_say(caches: list[Path]) -> None:
    for _, info, data in with_nars(caches):
        check(info, data)


def test_other_contents_are_not(caches: list[Path]) -> None:
    for _, info, data in with_nars(caches):
        if info.ca is None:
            continue
        first = next(event for event in NarReader().feed(data) if isinstance(event, Regular))
        changed = bytearray(data)
        changed[first.offset] ^= 1
        with pytest.raises(WrongContentError):
            check(info, bytes(changed))
        # The right content under another address of the same kind.
        digest = bytes([info.ca.hash.digest[0] ^ 1]) + info.ca.hash.digest[1:]
        wrong = replace(info.ca, hash=replace(info.ca.hash, digest=digest))
        with pytest.raises(WrongContentError):
            check(replace(info, ca=wrong), data)


def test_cache_infos(caches: list[Path]) -> None:
    for cache in caches:
        assert CacheInfo.parse((cache / "nix-cache-info").read_bytes()).store_dir == "/nix/store"


def test_the_compression_that_we_do_not_do_is_refused_by_name() -> None:
    folder = data_dir("nix-caches")
    for cache, info in narinfos([folder / HOPELESS]):
        with pytest.raises(UnsupportedCompressionError) as caught:
            nar(cache, info)
        assert caught.value.facts["compression"] == "compress"


def test_the_collected_piece_of_cache_nixos_org() -> None:
    folder = data_dir("real-mini-cache")
    key = PublicKey.parse("cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=")
    for cache, info in narinfos([folder]):
        assert TrustPolicy((key,)).admit(info).signed_by == ("cache.nixos.org-1",)
        data = nar(cache, info)
        assert (sha256(data), len(data)) == (info.nar_hash, info.nar_size)
        read([data])
