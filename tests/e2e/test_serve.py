"""Real Nix fetches from `nixfetch serve`, with signatures required."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from e2e.conftest import Command, Demo, RealNix, Serve

pytestmark = pytest.mark.e2e


@pytest.fixture(params=["store", "xz", "zstd"])
def url(request: pytest.FixtureRequest, serve: Serve, demo: Demo, filled: Command) -> Iterator[str]:
    """Where a store, or a cache directory, is served."""
    if request.param == "store":
        served: AbstractContextManager[str] = serve("--store", filled.store)
    else:
        served = serve("--cache", demo.cache(f"cache-{request.param}"))
    with served as url:
        yield url


def trusting(key: str) -> tuple[str, ...]:
    return ("--option", "trusted-public-keys", key, "--option", "require-sigs", "true")


def has_closure(nix: RealNix, store: Path, demo: Demo) -> bool:
    """Whether real Nix finds nothing wrong with the closure in `store`."""
    nix("nix-store", "--store", store, "--verify", "--check-contents")
    listed = nix("nix-store", "--store", store, "--query", "--requisites", demo.root)
    return sorted(listed.out.split()) == sorted(demo.closure)


def test_nix_copies_from_us(url: str, nix: RealNix, demo: Demo) -> None:
    store = nix.inside / "store"
    nix("nix", "copy", "--from", url, "--to", store, demo.root, *trusting(demo.key))
    assert has_closure(nix, store, demo)


def test_nix_substitutes_from_us(url: str, nix: RealNix, demo: Demo) -> None:
    store = nix.inside / "store"
    options = ("--option", "substituters", url, *trusting(demo.key))
    nix("nix-store", "--store", store, "--realise", demo.root, *options)
    assert has_closure(nix, store, demo)


def test_nix_believes_the_signatures_and_not_us(
    nix: RealNix, demo: Demo, serve: Serve, filled: Command
) -> None:
    store = nix.inside / "store"
    other = demo.key.replace("fixture-1:", "other-1:")
    with serve("--store", filled.store) as url:
        copy = ("nix", "copy", "--from", url, "--to", store, demo.root)
        ran = nix(*copy, *trusting(other), check=False)
    assert ran.code != 0
    assert "signature" in ran.err


def test_nix_lists_and_reads_what_we_serve(
    nix: RealNix, demo: Demo, serve: Serve, filled: Command
) -> None:
    program = demo.programs["dynamic"]
    listing = ("nix", "store", "ls", "--json", "-R", program)
    with serve("--store", filled.store) as ours, serve("--cache", demo.cache("cache-none")) as its:
        assert nix(*listing, "--store", ours).out == nix(*listing, "--store", its).out


def test_a_file_that_changed_on_disk_is_not_served(
    nix: RealNix, demo: Demo, serve: Serve, filled: Command
) -> None:
    program = filled.store / demo.programs["dynamic"].removeprefix("/")
    data = program.read_bytes()
    program.chmod(0o755)
    program.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    program.chmod(0o555)
    store = nix.inside / "store"
    with serve("--store", filled.store) as url:
        copy = ("nix", "copy", "--from", url, "--to", store, demo.root)
        ran = nix(*copy, *trusting(demo.key), "--option", "download-attempts", "1", check=False)
    assert ran.code != 0
    assert "hash mismatch" not in ran.err  # it never had the whole
