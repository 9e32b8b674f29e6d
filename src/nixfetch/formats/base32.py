"""Nix's base 32: 5 bits a digit, least significant digit last, no padding."""

from __future__ import annotations

from nixfetch.errors import FormatError

ALPHABET = "0123456789abcdfghijklmnpqrsvwxyz"
_VALUES = {digit: value for value, digit in enumerate(ALPHABET)}
# Two digits at a time halve the work: a closure walk writes two 52-digit hashes a path.
_PAIRS = [high + low for high in ALPHABET for low in ALPHABET]


class Base32Error(FormatError):
    """The text is not the canonical base-32 form of any bytes."""


def encoded_length(size: int) -> int:
    """Digits that `size` bytes take: 32 bytes take 52, 20 bytes take 32."""
    return (size * 8 + 4) // 5


def encode(data: bytes) -> str:
    """Write `data` in Nix's base 32.

    Args:
        data: any bytes; a digest as a rule (20 bytes in a store path, 32 of SHA-256).

    Returns:
        `encoded_length(len(data))` digits, all from `ALPHABET`.

    Source: nix, src/libutil/base-nix-32.cc, `BaseNix32::encode`.
    """
    number = int.from_bytes(data, "little")
    digits = encoded_length(len(data))
    pairs = (digits + 1) // 2
    text = "".join([_PAIRS[number >> shift & 1023] for shift in range(10 * (pairs - 1), -1, -10)])
    return text[len(text) - digits :]


def decode(text: str) -> bytes:
    """Read Nix's base 32; the inverse of `encode`.

    Args:
        text: digits from `ALPHABET`, with no prefix such as ``sha256:``.

    Returns:
        ``len(text) * 5 // 8`` bytes.

    Raises:
        Base32Error: a character outside the alphabet, a length that no bytes have, or
            leftover bits that are not zero.

    Source: nix, src/libutil/base-nix-32.cc, `BaseNix32::decode`.
    """
    size = len(text) * 5 // 8
    if encoded_length(size) != len(text):
        raise Base32Error("no bytes have that many base-32 digits", digits=len(text))
    number = 0
    for position, digit in enumerate(text):
        value = _VALUES.get(digit)
        if value is None:
            raise Base32Error("not a base-32 digit", digit=digit, position=position)
        number = number << 5 | value
    if number >> (8 * size):
        raise Base32Error("leftover bits are not zero", text=text[:200])
    return number.to_bytes(size, "little")
