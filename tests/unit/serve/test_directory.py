"""A cache directory as a source: what it opens, and what it does not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nixfetch.serve import DirectorySource
from nixfetch.serve.directory import ShrunkFileError, UnreadableCacheError

if TYPE_CHECKING:
    from collections.abc import Iterator

HASH = "0" * 32
SERVED = [
    "nix-cache-info",
    f"{HASH}.narinfo",
    f"{HASH}.ls",
    "nar/x.nar.xz",
    "nar/ab/cd/x.nar",
    "log/x.drv",
    "debuginfo/ab.debug",
    "realisations/sha256:ab!out.doi",
    "build-trace-v2/x.drv/out.doi",
]
NOT_SERVED = [
    "",
    "/",
    ".",
    "..",
    "secret",
    "nix-cache-info/",
    "nix-cache-info\n",
    "/nix-cache-info",
    f"{HASH}.key",
    f"{'e' * 32}.narinfo",
    f"{HASH}.narinfo/x",
    "nar",
    "nar/",
    "nar//x.nar.xz",
    "nar/../secret",
    "nar/./x.nar.xz",
    "nar/.hidden",
    "nar/ab",
    "nar/ab\0",
    "nar/missing",
    "nar/x.nar.xz/y",
    "nar/" + "a" * 256,
    "nar/" + "a/" * 9 + "a",
    "../nix-cache-info",
    "other/x",
    "nar/link",
    "nar/out/secret",
    "nar/fifo",
    f"{HASH[1:]}1.narinfo",
]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    for name in [*SERVED, "secret", f"{HASH}.key", f"{'e' * 32}.narinfo", "other/x", "nar/.hidden"]:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    (tmp_path / "secret").write_text("secret")
    (folder / "nar/link").symlink_to("x.nar.xz")
    (folder / "nar/out").symlink_to(tmp_path)
    (folder / f"{HASH[1:]}1.narinfo").symlink_to(f"{HASH}.narinfo")
    os.mkfifo(folder / "nar/fifo")
    return folder


@pytest.fixture
def source(cache: Path) -> Iterator[DirectorySource]:
    with DirectorySource(cache) as source:
        yield source


@pytest.mark.parametrize("name", SERVED)
def test_files_of_a_cache(source: DirectorySource, name: str) -> None:
    with source.open(name) as found:
        assert found is not None
        assert b"".join(found.read(0, found.size)) == name.encode()
        assert b"".join(found.read(2, 4)) == name.encode()[2:4]
        assert found.tag


@pytest.mark.parametrize("name", NOT_SERVED)
def test_what_is_no_file_of_a_cache(source: DirectorySource, name: str) -> None:
    with source.open(name) as found:
        assert found is None


def test_media_types(source: DirectorySource) -> None:
    types = {}
    for name in SERVED[:6]:
        with source.open(name) as found:
            assert found is not None
            types[name] = found.media_type
    assert list(types.values()) == [
        "text/x-nix-cache-info",
        "text/x-nix-narinfo",
        "application/json",
        "application/x-nix-nar",
        "application/x-nix-nar",
        "application/octet-stream",
    ]


def test_another_file_has_another_tag(source: DirectorySource, cache: Path) -> None:
    tags = []
    for text in ["one", "two", "three"]:
        fresh = cache / "fresh"
        fresh.write_text(text)
        fresh.replace(cache / "nar/x.nar.xz")
        with source.open("nar/x.nar.xz") as found:
            assert found is not None
            tags.append(found.tag)
    assert len(set(tags)) == 3


def test_a_file_that_shrinks_is_an_error(source: DirectorySource, cache: Path) -> None:
    with source.open("nar/x.nar.xz") as found:
        assert found is not None
        os.truncate(cache / "nar/x.nar.xz", 3)
        with pytest.raises(ShrunkFileError):
            b"".join(found.read(0, found.size))


def test_no_descriptor_stays_open(source: DirectorySource) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in SERVED + NOT_SERVED:
        with source.open(name):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_directory_that_is_no_cache(tmp_path: Path) -> None:
    with pytest.raises(UnreadableCacheError, match="no binary cache"):
        DirectorySource(tmp_path)


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(UnreadableCacheError, match="no such file") as caught:
        DirectorySource(tmp_path / "none")
    assert caught.value.exit_code == 6
