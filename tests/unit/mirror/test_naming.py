from __future__ import annotations

from dataclasses import replace

import pytest

from nixfetch.formats.hashes import sha256
from nixfetch.formats.narinfo import NarInfo
from nixfetch.mirror import naming
from simulated_cache import store_path

INFO = NarInfo(
    path=store_path("x"),
    nar_hash=sha256(b"nar"),
    nar_size=3,
    url=f"nar/{sha256(b'file').base32}.nar.xz",
    compression="xz",
    file_hash=sha256(b"file"),
    file_size=4,
)


def test_the_usual_name_is_kept() -> None:
    assert naming.keeps_url(INFO)
    assert naming.names_content(INFO)
    assert naming.usual_name(INFO) == INFO.url


@pytest.mark.parametrize(
    "url",
    [
        "abc.narinfo",
        "nix-cache-info",
        "nar/../x.narinfo",
        "nar/a/b.nar",
        "nar/.hidden",
        "nar/%2e%2e",
        "nar/x.nar?hash=1",
        "https://elsewhere/nar/x.nar",
        "/nar/x.nar",
        "nar/",
        "nar/" + "x" * 300,
    ],
)
def test_others_are_not(url: str) -> None:
    assert not naming.keeps_url(replace(INFO, url=url))


def test_a_name_that_does_not_tell_the_content() -> None:
    assert naming.keeps_url(replace(INFO, url="nar/whatever.nar"))
    assert not naming.names_content(replace(INFO, url="nar/whatever.nar"))
    assert not naming.names_content(replace(INFO, file_hash=None))


def test_the_usual_name_without_a_hash_of_the_file() -> None:
    digest = sha256(b"nar").base32
    info = replace(INFO, file_hash=None)
    assert naming.usual_name(replace(info, compression="none")) == f"nar/{digest}.nar"
    assert naming.usual_name(replace(info, compression="bzip2")) == f"nar/{digest}.nar.bz2"
    assert naming.usual_name(replace(info, compression="odd")) == f"nar/{digest}.nar.odd"


def test_a_name_of_its_own_for_each_way_to_compress() -> None:
    names = {naming.seekable_name(INFO, level=level) for level in range(1, 20)}
    assert len(names) == 19
    assert all(naming.keeps_url(replace(INFO, url=name)) for name in names)


def test_hash_parts() -> None:
    part = INFO.path.hash_part
    assert naming.hash_part_of(f"{part}.narinfo") == part
    for name in (f"{part}.ls", "nix-cache-info", f"{part[1:]}.narinfo", f"{part}.narinfo.x"):
        assert naming.hash_part_of(name) is None


def test_object_names() -> None:
    assert naming.object_name("nar/a%2Bb.nar?x=1") == "nar/a+b.nar"
    assert naming.object_name("https://host/x") is None
    assert naming.object_name("../x") is None
