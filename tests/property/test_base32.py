"""Base 32 against the formula in Nix's manual, bit by bit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nixfetch.formats import base32
from nixfetch.formats.base32 import ALPHABET, Base32Error


def slow_encode(data: bytes) -> str:
    """Digit n, counted from the right, is bits 5n to 5n+4; bit b is bit b%8 of byte b//8."""

    def bit(index: int) -> int:
        byte, shift = divmod(index, 8)
        return data[byte] >> shift & 1 if byte < len(data) else 0

    digits = -(-len(data) * 8 // 5)
    values = [sum(bit(5 * n + b) << b for b in range(5)) for n in range(digits)]
    return "".join(ALPHABET[value] for value in reversed(values))


@given(data=st.binary(max_size=80))
def test_encode_follows_the_formula_and_decode_undoes_it(data: bytes) -> None:
    text = base32.encode(data)
    assert text == slow_encode(data)
    assert len(text) == base32.encoded_length(len(data))
    assert base32.decode(text) == data


@given(text=st.text(max_size=60) | st.text(ALPHABET, max_size=110))
def test_what_decodes_is_canonical(text: str) -> None:
    try:
        data = base32.decode(text)
    except Base32Error:
        return
    assert base32.encode(data) == text
