"""Real Nix copies from mirrors that we made: of any kind, and of its own as well."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from command import nixfetch
from mirror_walk import walk
from real_nix import SYSTEMS, RealNix, real_nix

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.differential

FIXTURES = Path(__file__).parents[2] / "fixtures"
FACTS = json.loads((FIXTURES / "paths.json").read_text())
ROOT: str = FACTS["root"]
CLOSURE: list[str] = FACTS["closure"]
KEYS = [FACTS["keys"][name]["public"] for name in ("fixture-1", "fixture-2")]
SECOND = FIXTURES / FACTS["keys"]["fixture-2"]["secret-file"]


@pytest.fixture(params=SYSTEMS)
def nix(request: pytest.FixtureRequest) -> Iterator[RealNix]:
    with real_nix(request.param) as nix:
        yield nix


def copied(nix: RealNix, mirror: Path, key: str = KEYS[0]) -> None:
    """Have `nix` copy the closure from `mirror`, and look at every byte."""
    store = nix.place / "store"
    settings = {"trusted-public-keys": key, "require-sigs": "true"}
    nix.run(
        "nix",
        "copy",
        "--store",
        store,
        "--from",
        f"file://{nix.inside(mirror)}",
        ROOT,
        settings=settings,
    )
    assert sorted(nix.path_info(store, ROOT)) == sorted(CLOSURE)
    nix.run("nix-store", "--store", store, "--verify", "--check-contents")


@pytest.mark.parametrize("cache", ["cache-xz", "cache-zstd", "cache-none"])
@pytest.mark.parametrize(
    "how",
    [
        [],
        ["--recompress", "zstd", "--level", "3"],
        ["--recompress", "zstd", "--listing", "--sign", str(SECOND)],
    ],
    ids=["exact", "recompressed", "signed"],
)
def test_nix_copies_from_a_mirror(nix: RealNix, cache: str, how: list[str]) -> None:
    mirror = nix.place / "mirror"
    ran = nixfetch(
        *("mirror", ROOT, "--from", (FIXTURES / cache).as_uri(), "--to", mirror.as_uri()),
        *("--trusted-key", KEYS[0], *how),
    )
    assert ran.code == 0, ran.err
    assert walk(mirror).sins == ()
    copied(nix, mirror, KEYS[1] if "--sign" in how else KEYS[0])


def test_a_mirror_of_a_cache_that_nix_made(nix: RealNix) -> None:
    """Nix's own cache, copied on: the same bytes, and Nix takes them."""
    source = nix.place / "source"
    shutil.copytree(FIXTURES / "cache-xz", source)
    store, theirs, ours = nix.place / "first", nix.place / "theirs", nix.place / "ours"
    keys = {"trusted-public-keys": KEYS[0]}
    from_source = ["--from", f"file://{nix.inside(source)}", ROOT]
    nix.run("nix", "copy", "--store", store, *from_source, settings=keys)
    nix.run(
        *("nix", "copy", "--store", store, "--to"),
        f"file://{nix.inside(theirs)}?compression=zstd",
        ROOT,
    )
    ran = nixfetch(
        *("mirror", ROOT, "--from", theirs.as_uri(), "--to", ours.as_uri()),
        *("--trusted-key", KEYS[0], "--verify-nar"),
    )
    assert ran.code == 0, ran.err
    for narinfo in theirs.glob("*.narinfo"):
        assert (ours / narinfo.name).read_bytes() == narinfo.read_bytes()
    for file in theirs.glob("nar/*"):
        assert (ours / "nar" / file.name).read_bytes() == file.read_bytes()
    copied(nix, ours)


def test_nix_adds_to_a_mirror(nix: RealNix) -> None:
    """Both write into one: what is there already is left alone."""
    source, mirror = nix.place / "source", nix.place / "mirror"
    shutil.copytree(FIXTURES / "cache-xz", source)
    leaf = CLOSURE[0]
    ran = nixfetch(
        *("mirror", leaf, "--from", source.as_uri(), "--to", mirror.as_uri()),
        *("--trusted-key", KEYS[0]),
    )
    assert ran.code == 0, ran.err
    nix.run(
        *("nix", "copy", "--from", f"file://{nix.inside(source)}"),
        *("--to", f"file://{nix.inside(mirror)}", ROOT, "--no-check-sigs"),
    )
    assert walk(mirror).sins == ()
    ran = nixfetch("mirror", "verify", mirror.as_uri(), "--trusted-key", KEYS[0])
    assert ran.code == 0, ran.out
