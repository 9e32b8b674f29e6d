from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixfetch.streams.references import (
    MAX_SELF_REFERENCES,
    ReferenceScanner,
    SelfReferenceDigests,
    SelfReferenceHasher,
    TooManySelfReferencesError,
)
from unit.streams.encoders import cut

OWN = b"0123456789abcdfghijklmnpqrsvwxyz"
PERIODIC = b"ab" * 16  # overlaps itself
PARTS = [bytes(random.Random(n).choices(OWN, k=32)) for n in range(200)]


def scan(parts: list[bytes], data: bytes, size: int) -> set[bytes]:
    scanner = ReferenceScanner(parts)
    for chunk in cut(data, size):
        scanner.update(chunk)
    return scanner.found


@pytest.mark.parametrize("size", [1, 31, 32, 33, 1000])
@pytest.mark.parametrize("count", [1, 3, 200])
def test_hash_parts_are_found_wherever_they_are_cut(size: int, count: int) -> None:
    parts = PARTS[:count]
    inside = parts[: (count + 1) // 2]
    data = b"/nix/store/" + b"-hello\0/nix/store/".join(inside) + b"-hello"
    assert scan(parts, data, size) == set(inside)


@pytest.mark.parametrize("count", [2, 200])
@pytest.mark.parametrize("size", [1, 40, 1000])
def test_neighbours_of_the_same_alphabet_do_not_hide_one(count: int, size: int) -> None:
    first, second = PARTS[:2]
    data = b"zz" + first + b"0123" + second + b"yy"
    assert scan(PARTS[:count], data, size) == {first, second}


def test_overlapping_hash_parts_are_both_found() -> None:
    shifted = PERIODIC[1:] + b"a"
    assert scan([PERIODIC, shifted], PERIODIC + b"a", 7) == {PERIODIC, shifted}


def test_one_character_less_is_nothing() -> None:
    assert scan([OWN], OWN[:-1] + b"e" + OWN[1:], 9) == set()


def test_nothing_is_looked_for_once_all_is_found() -> None:
    scanner = ReferenceScanner([OWN])
    scanner.update(OWN)
    scanner.update(OWN)
    assert scanner.found == {OWN}


@pytest.mark.parametrize("part", [b"", OWN[:-1], OWN + b"0", OWN[:-1] + b"e", b"A" * 32])
def test_what_is_no_hash_part_is_refused(part: bytes) -> None:
    with pytest.raises(ValueError, match="not a hash part"):
        ReferenceScanner([part])
    with pytest.raises(ValueError, match="not a hash part"):
        SelfReferenceHasher(part, hashlib.sha256())


def self_hash(own: bytes, data: bytes, size: int) -> SelfReferenceDigests:
    hasher = SelfReferenceHasher(own, hashlib.sha256())
    for chunk in cut(data, size):
        hasher.update(chunk)
    return hasher.digests()


def by_definition(own: bytes, data: bytes) -> SelfReferenceDigests:
    """Nix's loop: replace the leftmost occurrence until there is none."""
    offsets = b""
    while (found := data.find(own)) >= 0:
        data = data[:found] + bytes(32) + data[found + 32 :]
        offsets += b"|%d" % found
    return SelfReferenceDigests(
        hashlib.sha256(data + offsets).digest(), hashlib.sha256(data).digest()
    )


@given(
    own=st.sampled_from([OWN, PERIODIC, b"0" * 32]),
    parts=st.lists(
        st.one_of(st.just(None), st.integers(1, 31), st.binary(max_size=40)), max_size=12
    ),
    size=st.integers(1, 200),
)
def test_self_references_are_hashed_as_nix_hashes_them(
    own: bytes, parts: list[bytes | int | None], size: int
) -> None:
    def piece(part: bytes | int | None) -> bytes:
        if part is None:
            return own
        return own[:part] if isinstance(part, int) else part

    data = b"".join(map(piece, parts))
    assert self_hash(own, data, size) == by_definition(own, data)


def test_known_digests() -> None:
    with_offsets, without_offsets = self_hash(OWN, b"a" + OWN + b"b" + OWN, 10)
    zeroed = b"a" + bytes(32) + b"b" + bytes(32)
    assert with_offsets == hashlib.sha256(zeroed + b"|1|34").digest()
    assert without_offsets == hashlib.sha256(zeroed).digest()


def test_overlapping_occurrences_count_from_the_left() -> None:
    with_offsets, _ = self_hash(PERIODIC, b"ab" * 20, 1)
    assert with_offsets == hashlib.sha256(bytes(32) + b"ab" * 4 + b"|0").digest()


def test_without_a_self_reference_both_are_the_plain_hash() -> None:
    plain = hashlib.sha256(b"hello").digest()
    assert self_hash(OWN, b"hello", 2) == (plain, plain)


def test_digests_may_be_asked_for_at_any_time() -> None:
    hasher = SelfReferenceHasher(OWN, hashlib.sha256())
    hasher.update(OWN[:20])
    hasher.digests()
    hasher.update(OWN[20:])
    assert hasher.digests() == by_definition(OWN, OWN)


def test_the_offsets_of_a_hostile_path_are_limited() -> None:
    hasher = SelfReferenceHasher(OWN, hashlib.sha256())
    many = OWN * (1 << 14)
    for _ in range(MAX_SELF_REFERENCES >> 14):
        hasher.update(many)
    with pytest.raises(TooManySelfReferencesError) as caught:
        hasher.update(OWN)
    assert caught.value.facts == {"limit": MAX_SELF_REFERENCES}
