from __future__ import annotations

import hashlib

import pytest

from nixfetch.formats.hashes import (
    SIZES,
    Hash,
    HashError,
    UnsupportedHashError,
    decode_base64,
    hasher,
    sha256,
)

HELLO = sha256(b"hello")  # the forms below are what `nix hash` prints for it
HELLO_BASE32 = "094qif9n4cq4fdg459qzbhg1c6wywawwaaivx0k0x8xhbyx4vwic"
HELLO_HEX = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
HELLO_BASE64 = "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="


@pytest.mark.parametrize(
    "text",
    [
        f"sha256:{HELLO_BASE32}",
        f"sha256:{HELLO_HEX}",
        f"sha256:{HELLO_HEX.upper()}",
        f"sha256:{HELLO_BASE64}",
        f"sha256-{HELLO_BASE64}",
    ],
)
def test_every_text_form(text: str) -> None:
    assert Hash.parse(text) == HELLO


def test_the_forms_we_write() -> None:
    assert str(HELLO) == f"sha256:{HELLO_BASE32}"
    assert HELLO.hex == HELLO_HEX
    assert HELLO.sri == f"sha256-{HELLO_BASE64}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "hash has no algorithm"),
        (HELLO_BASE32, "hash has no algorithm"),
        (f"sha3:{HELLO_HEX}", "unknown hash algorithm"),
        (f"SHA256:{HELLO_HEX}", "unknown hash algorithm"),
        (f"sha3-{HELLO_BASE64}", "unknown hash algorithm"),
        (f"sha256-{HELLO_HEX}", "digest has the wrong length"),
        (f"sha256:{HELLO_HEX}0", "digest has the wrong length"),
        (f"sha1:{HELLO_HEX}", "digest has the wrong length"),
        (f"sha256:{HELLO_BASE32.upper()}", "not a digest"),
        ("sha256:" + "z" * 52, "not a digest"),
        ("sha256:" + "0 " * 32, "not a digest"),
        ("sha256:" + "g" * 64, "not a digest"),
        ("sha256:" + "٣" * 64, "not a digest"),
        ("sha256:" + "!" * 44, "not base 64"),
        ("sha256:" + HELLO_BASE64[:-2] + "R=", "not canonical base 64"),
    ],
)
def test_refused(text: str, problem: str) -> None:
    with pytest.raises(HashError) as caught:
        Hash.parse(text)
    assert caught.value.problem == problem


def test_base64_is_ascii() -> None:
    with pytest.raises(HashError, match="not base 64"):
        decode_base64("é")


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512"])
def test_hasher(algorithm: str) -> None:
    first = hasher(algorithm)
    first.update(b"hel")
    second = first.copy()
    second.update(memoryview(b"lo"))
    assert second.digest() == hashlib.new(algorithm, b"hello", usedforsecurity=False).digest()
    assert len(first.digest()) == SIZES[algorithm]


def test_blake3_is_an_extra() -> None:
    with pytest.raises(UnsupportedHashError, match="blake3 is not installed") as caught:
        hasher("blake3", installed=lambda _package: False)
    assert caught.value.hint == "pip install 'nixfetch[blake3]'"


def test_blake3() -> None:
    pytest.importorskip("blake3")
    blake3 = hasher("blake3")
    blake3.update(b"")
    # The empty input's digest in blake3's own test vectors.
    assert blake3.digest().hex().startswith("af1349b9f5f9a1a6a0404dea36dcc949")
