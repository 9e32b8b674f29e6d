from __future__ import annotations

import pytest

from nixfetch.formats import base32
from nixfetch.formats.base32 import Base32Error


@pytest.mark.parametrize(
    ("size", "digits"), [(0, 0), (1, 2), (16, 26), (20, 32), (32, 52), (64, 103)]
)
def test_length(size: int, digits: int) -> None:
    assert base32.encoded_length(size) == digits
    assert len(base32.encode(bytes(size))) == digits


def test_a_real_hash_part() -> None:
    # The path of net-tools-1.60 on cache.nixos.org.
    text = "00bgd045z0d4icpbc2yyz4gx48ak44la"
    assert base32.decode(text).hex() == "8a12321522fd91efbd60ebb2481af88580f61600"
    assert base32.encode(base32.decode(text)) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("0e", "not a base-32 digit"),
        ("0A", "not a base-32 digit"),
        ("0", "no bytes have that many base-32 digits"),
        ("z" * 52, "leftover bits are not zero"),
        ("2" + "0" * 51, "leftover bits are not zero"),
    ],
)
def test_refused(text: str, problem: str) -> None:
    with pytest.raises(Base32Error) as caught:
        base32.decode(text)
    assert caught.value.problem == problem


def test_the_first_digit_of_a_sha256_is_0_or_1() -> None:
    assert base32.decode("1" + "0" * 51) == bytes(31) + b"\x80"
