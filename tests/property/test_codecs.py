"""Every compression, any data, cut anywhere, damaged anyhow."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixfetch.streams.codecs import PIECE, CodecError, TruncatedError, decode
from unit.streams.encoders import ENCODERS, MANY, cut

contents = st.builds(
    lambda parts: b"".join(part * times for part, times in parts),
    st.lists(st.tuples(st.binary(max_size=64), st.integers(1, 2000)), max_size=4),
)
every = pytest.mark.parametrize("compression", ENCODERS)


def pieces(data: bytes, places: list[int]) -> list[bytes]:
    """`data` cut at these places, taken modulo its length."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:stop] for start, stop in itertools.pairwise(edges)]


@every
@given(data=contents, places=st.lists(st.integers(0, 1 << 20), max_size=8))
def test_what_was_encoded_comes_back_however_it_is_cut(
    compression: str, data: bytes, places: list[int]
) -> None:
    encoded = ENCODERS[compression](data)
    made = list(decode(compression, pieces(encoded, places)))
    assert b"".join(made) == data
    assert all(0 < len(piece) <= PIECE for piece in made)


@every
@given(data=st.binary(max_size=200))
def test_byte_by_byte(compression: str, data: bytes) -> None:
    assert b"".join(decode(compression, cut(ENCODERS[compression](data), 1))) == data


@pytest.mark.parametrize("compression", MANY)
@given(parts=st.lists(contents, min_size=1, max_size=3), size=st.integers(1, 5000))
def test_encodings_follow_each_other(compression: str, parts: list[bytes], size: int) -> None:
    encoded = b"".join(map(ENCODERS[compression], parts))
    assert b"".join(decode(compression, cut(encoded, size))) == b"".join(parts)


@every
@given(data=st.binary(max_size=300), rank=st.integers(0, 1 << 16), size=st.integers(1, 400))
def test_every_prefix_is_truncated(compression: str, data: bytes, rank: int, size: int) -> None:
    encoded = ENCODERS[compression](data)
    prefix = encoded[: rank % len(encoded)]
    with pytest.raises(TruncatedError):
        list(decode(compression, cut(prefix, size)))


@every
@given(data=contents, junk=st.binary(min_size=1, max_size=40).filter(any))
def test_bytes_after_the_end_are_refused(compression: str, data: bytes, junk: bytes) -> None:
    with pytest.raises(CodecError):
        list(decode(compression, [ENCODERS[compression](data), junk]))
    with pytest.raises(CodecError):
        list(decode(compression, [ENCODERS[compression](data) + junk]))


@every
@given(data=contents, place=st.integers(0, 1 << 20), mask=st.integers(1, 255))
def test_damage_raises_codec_errors_and_nothing_else(
    compression: str, data: bytes, place: int, mask: int
) -> None:
    encoded = bytearray(ENCODERS[compression](data))
    encoded[place % len(encoded)] ^= mask
    try:
        made = list(decode(compression, cut(bytes(encoded), 100)))
    except CodecError:
        return  # lzma, brotli and raw blocks have no checksum: some damage goes through
    assert all(0 < len(piece) <= PIECE for piece in made)


@every
@given(junk=st.binary(min_size=1, max_size=100))
def test_junk_raises_codec_errors_and_nothing_else(compression: str, junk: bytes) -> None:
    try:
        list(decode(compression, [junk]))
    except CodecError:
        return
    assert compression in {"br", "deflate"}  # two bytes can be a whole encoding of theirs
