from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nixfetch
from snapshotter import imageref
from snapshotter.imageref import ImageReferenceError, NixReference, RegistryReference, parse

HASH = "0c0pwxv5czg7apffcdrlx8zfz1khjqz3"
DIGEST = "sha256:" + "ab" * 32
# Docker's grammar, written down once more: what kubelet lets pass.
DOCKER = re.compile(
    r"nix:0(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)+:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
)


def path(name: str) -> nixfetch.StorePath:
    return nixfetch.StorePath.parse(f"{HASH}-{name}")


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("redis-7.2", "-redis-7.2"),
        ("redis.tar.gz", "-redis.tar.gz"),
        ("gtk+3-3.24", "-gtk__2b3-3.24"),
        ("R-4.3", "__2d__52-4.3"),
        ("libstdc++", "-libstdc__2b__2b"),
        ("a--b", "-a--b"),
        ("a.-b", "-a__2e-b"),
        ("a__b", "-a__5f_b"),
        ("a__2bc", "-a__5f_2bc"),
        ("a-", "-a__2d"),
        ("a.", "-a__2e"),
        ("_a", "__2d_a"),
        ("?a=b", "__2d__3fa__3db"),
        ("LICENSE", "__2d__4c__49__43__45__4e__53__45"),
    ],
)
def test_a_store_path_as_a_reference(name: str, written: str) -> None:
    reference = NixReference(path(name))
    assert str(reference) == f"nix:0/nix/store/{HASH}{written}:latest"
    assert DOCKER.fullmatch(str(reference))
    assert parse(str(reference)) == reference


@given(st.text("aZ09+-._?=", min_size=1, max_size=30))
def test_every_store_path_has_a_reference_that_is_read_as_it(name: str) -> None:
    try:
        reference = NixReference(path(name))
    except nixfetch.FormatError:
        return
    assert DOCKER.fullmatch(str(reference))
    assert parse(str(reference)) == reference


@pytest.mark.parametrize("text", ["", ":latest"])
def test_the_tag_may_be_missing(text: str) -> None:
    assert parse(f"nix:0/nix/store/{HASH}-a{text}") == NixReference(path("a"))


def test_a_digest_is_kept() -> None:
    found = parse(f"nix:0/nix/store/{HASH}-a:latest@{DIGEST}")
    assert found == NixReference(path("a"), DIGEST)
    assert str(found).endswith(f"-a:latest@{DIGEST}")


@pytest.mark.parametrize("name", ["a+b", "R", "a__b", "a__2x", "a__41"])
def test_a_name_as_it_stands_is_read_as_such(name: str) -> None:
    """As nix-snapshotter reads it, and whoever writes references by hand."""
    text = f"nix:0/nix/store/{HASH}-{name}"
    expected = "aA" if name == "a__41" else name  # the one that is written so by us
    assert parse(text) == NixReference(path(expected))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nix:0/", "not in the store directory"),
        ("nix:0/etc/passwd", "not in the store directory"),
        ("nix:0/nix/store/", "store path has no 32-digit hash part"),
        (f"nix:0/nix/store/{HASH}", "store path has no dash behind its hash part"),
        (f"nix:0/nix/store/{HASH}-a/bin/b", "store path has a name that is not allowed"),
        (f"nix:0/nix/store/../store/{HASH}-a", "store path has no 32-digit hash part"),
        (f"nix:0//nix/store/{HASH}-a", "not in the store directory"),
        (f"nix:0/nix/store/{HASH}-a:v1", "an image of the store has no tag but latest"),
        (f"nix:0/nix/store/{HASH}-a:", "reference has a bad tag"),
        (f"nix:0/nix/store/{HASH}-a@sha256:00", "reference has a bad digest"),
        (f"nix:0/nix/store/{HASH}-a@", "reference has a bad digest"),
        (f"nix:0/nix/store/{HASH}-{'a' * 2000}", "reference is too long"),
    ],
)
def test_what_is_no_image_of_the_store(text: str, problem: str) -> None:
    with pytest.raises(ImageReferenceError) as caught:
        parse(text)
    assert caught.value.problem == problem


def test_a_name_that_is_too_long_for_a_reference() -> None:
    assert parse(str(NixReference(path("a" * 206)))) == NixReference(path("a" * 206))
    with pytest.raises(ImageReferenceError, match="too long a name for a reference"):
        str(NixReference(path("a" * 207)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis", RegistryReference("docker.io", "library/redis")),
        ("redis:7", RegistryReference("docker.io", "library/redis", "7")),
        ("nix:0", RegistryReference("docker.io", "library/nix", "0")),
        ("a/b", RegistryReference("docker.io", "a/b")),
        ("index.docker.io/redis", RegistryReference("docker.io", "library/redis")),
        ("docker.io/a/b", RegistryReference("docker.io", "a/b")),
        ("localhost/a", RegistryReference("localhost", "a")),
        ("localhost:5000/a:b", RegistryReference("localhost:5000", "a", "b")),
        ("[::1]:5000/a", RegistryReference("[::1]:5000", "a")),
        ("ghcr.io/a/b/c:v1.0-x_y", RegistryReference("ghcr.io", "a/b/c", "v1.0-x_y")),
        (f"q.io/a@{DIGEST}", RegistryReference("q.io", "a", None, DIGEST)),
        (f"q.io/a:t@{DIGEST}", RegistryReference("q.io", "a", "t", DIGEST)),
    ],
)
def test_references_of_registries(text: str, expected: RegistryReference) -> None:
    assert parse(text) == expected


def test_a_reference_is_written_whole() -> None:
    found = imageref.parse_registry("redis")
    assert str(found) == "docker.io/library/redis"
    assert str(found.with_tag()) == "docker.io/library/redis:latest"
    assert found.endpoint == "registry-1.docker.io"
    assert found.wanted == "latest"
    pinned = imageref.parse_registry(f"q.io/a:t@{DIGEST}")
    assert (pinned.endpoint, pinned.wanted) == ("q.io", DIGEST)
    assert pinned.with_tag() == pinned
    assert parse(str(pinned)) == pinned


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "reference has no name"),
        ("q.io/", "reference has no name"),
        ("Redis", "reference has upper case in its name"),
        ("q.io/Redis", "reference has upper case in its name"),
        ("q.io/a//b", "reference has a name that is not allowed"),
        ("q.io/../b", "reference has a name that is not allowed"),
        ("a b", "reference has a name that is not allowed"),
        ("a:b:c", "reference has a name that is not allowed"),
        ("a\n", "reference has a name that is not allowed"),
        ("q.io:port/a", "reference has a bad host"),
        ("nix:0x/a", "reference has a bad host"),
        ("-q.io/a", "reference has a bad host"),
        ("user@q.io/a", "reference has a bad digest"),
        ("a:", "reference has a bad tag"),
        ("a:-b", "reference has a bad tag"),
        ("a@md5:00", "reference has a bad digest"),
        (f"a@{DIGEST.upper()}", "reference has a bad digest"),
        ("0" * 64, "that is the ID of an image, not a reference"),
        ("a" * 250, "reference has too long a name"),
    ],
)
def test_what_is_no_reference(text: str, problem: str) -> None:
    with pytest.raises(ImageReferenceError) as caught:
        parse(text)
    assert caught.value.problem == problem
