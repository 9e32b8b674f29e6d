from __future__ import annotations

import pytest

from snapshotter.oci.choice import CONTAINERD_NAME, NAME, Candidate, choose, flat
from snapshotter.oci.digests import ImageError
from snapshotter.oci.model import INDEX, MANIFEST, Descriptor, Index, Platform

AMD64 = Platform("linux", "amd64")


def named(content: bytes, name: str | None = None, platform: str | None = None) -> Candidate:
    found = Platform.parse(platform) if platform else None
    return Candidate(Descriptor.of(MANIFEST, content), name, found)


ONE, TWO = named(b"1", "a:1"), named(b"2", "a:2")
ARM, INTEL = named(b"arm", None, "linux/arm64"), named(b"intel", None, "linux/amd64")
INTEL_3 = named(b"intel 3", None, "linux/amd64/v3")


def test_the_only_one_needs_no_name() -> None:
    assert choose([ONE]) == choose([ONE], platform=AMD64) == ONE
    assert choose([ONE, ONE]) == ONE


def test_a_name_or_a_tag_says_which() -> None:
    assert choose([ONE, TWO], name="a:2") == choose([ONE, TWO], name="2") == TWO


def test_the_machine_says_which() -> None:
    assert choose([ARM, INTEL], platform=AMD64) == INTEL
    assert choose([INTEL, INTEL_3, ARM], platform=AMD64) == INTEL
    assert choose([INTEL, INTEL_3], platform=Platform("linux", "amd64", "v3")) == INTEL_3


@pytest.mark.parametrize(
    ("every", "platform", "name", "problem"),
    [
        ([], None, None, "no such image there"),
        ([ONE], None, "a:3", "no such image there"),
        ([ONE, TWO], None, None, "several images there"),
        ([ONE, TWO], AMD64, None, "several images there"),
        ([ARM, INTEL], None, None, "several images there"),
        ([named(b"1"), named(b"2")], AMD64, None, "several images there"),
        ([ARM], AMD64, None, "image is for other platforms"),
    ],
)
def test_what_is_not_clear(
    every: list[Candidate], platform: Platform | None, name: str | None, problem: str
) -> None:
    with pytest.raises(ImageError) as caught:
        choose(every, platform=platform, name=name)
    assert caught.value.problem == problem


def test_indexes_within_indexes() -> None:
    manifest = Descriptor.of(MANIFEST, b"m")
    attestation = Descriptor.of(
        MANIFEST, b"a", {"vnd.docker.reference.type": "attestation-manifest"}
    )
    other = Descriptor.of("application/json", b"o")
    inner = Index(manifests=(manifest, attestation, other)).json()
    outer = Index(
        manifests=(
            Descriptor.of(INDEX, inner, {NAME: "1", CONTAINERD_NAME: "a.b/c:1"}),
            Descriptor.of(MANIFEST, b"x", {NAME: "2"}),
        )
    )
    found = flat(outer, lambda _blob: inner)
    assert [(each.blob, each.name) for each in found] == [
        (manifest, "a.b/c:1"),
        (outer.manifests[1], "2"),
    ]


def test_indexes_that_name_each_other_without_end() -> None:
    inner = Index(manifests=(Descriptor.of(INDEX, b"x"),) * 1000).json()
    reads = []

    def read(blob: Descriptor) -> bytes:
        reads.append(blob)
        return inner

    with pytest.raises(ImageError, match="too many indexes"):
        flat(Index.parse(inner), read)
    assert len(reads) < 100
