"""Hashes, content addresses and keys in each of their text forms."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixfetch.errors import FormatError
from nixfetch.formats.contentaddress import ContentAddress
from nixfetch.formats.hashes import SIZES, Hash, HashError, decode_base64
from nixfetch.formats.signing import KeyFormatError, PublicKey, SecretKey, Signature
from property.strategies import (
    content_addresses,
    hashes,
    names,
    secret_keys,
    signatures,
    store_paths,
)

if TYPE_CHECKING:
    from nixfetch.formats.storepath import StorePath


@given(value=hashes(*SIZES))
def test_every_form_reads_back(value: Hash) -> None:
    encoded = base64.b64encode(value.digest).decode()
    digests = [value.base32, value.hex, value.hex.upper(), encoded]
    forms = [f"{value.algorithm}:{digest}" for digest in digests]
    assert {Hash.parse(form) for form in [*forms, value.sri, str(value)]} == {value}


@given(value=hashes(*SIZES), position=st.integers(0), character=st.characters())
def test_a_changed_hash_is_another_or_refused(value: Hash, position: int, character: str) -> None:
    for digest in (value.base32, value.hex, base64.b64encode(value.digest).decode()):
        place = position % len(digest)
        changed = digest[:place] + character + digest[place + 1 :]
        try:
            parsed = Hash.parse(f"{value.algorithm}:{changed}")
        except HashError:
            continue
        assert parsed != value or changed.lower() == digest.lower()


@given(text=st.text(max_size=80), algorithm=st.sampled_from([*SIZES, "", "sha3"]))
def test_junk_is_a_hash_error(text: str, algorithm: str) -> None:
    for form in (text, f"{algorithm}:{text}", f"{algorithm}-{text}"):
        with suppress(HashError):
            Hash.parse(form)


@given(text=st.text(max_size=40))
def test_base64_is_canonical_or_an_error(text: str) -> None:
    try:
        data = decode_base64(text)
    except HashError:
        return
    assert base64.b64encode(data).decode() == text


@given(ca=content_addresses)
def test_content_addresses_read_back(ca: ContentAddress) -> None:
    assert ContentAddress.parse(str(ca)) == ca


@given(text=st.text(max_size=60), prefix=st.sampled_from(["", "text:", "fixed:", "fixed:git:"]))
def test_junk_is_no_content_address(text: str, prefix: str) -> None:
    with pytest.raises(FormatError):
        ContentAddress.parse(prefix + text)


@given(ca=content_addresses, name=names, references=st.sets(store_paths, max_size=3))
def test_a_path_is_its_own_address_and_no_others(
    ca: ContentAddress, name: str, references: set[StorePath]
) -> None:
    path = ca.path(name)
    assert ca.is_address_of(path, ())
    assert path.name == name
    assert not ca.is_address_of(path, {path})
    if references:
        assert not ca.is_address_of(path, references)


@given(value=signatures)
def test_signatures_read_back(value: Signature) -> None:
    assert Signature.parse(str(value)) == value


@given(key=secret_keys, message=st.binary(max_size=100), position=st.integers(0, 511))
def test_what_a_key_signs_it_verifies_and_nothing_else(
    key: SecretKey, message: bytes, position: int
) -> None:
    public, signature = key.public(), key.sign(message)
    assert public.signed(signature, message)
    assert not public.signed(signature, message + b"x")
    byte, shift = divmod(position, 8)
    data = bytearray(signature.data)
    data[byte] ^= 1 << shift
    assert not public.signed(Signature(key.name, bytes(data)), message)
    assert SecretKey.parse(key.text()) == key
    assert PublicKey.parse(str(public)) == public


@given(text=st.text(max_size=120))
def test_junk_is_a_key_format_error(text: str) -> None:
    for parse in (Signature.parse, PublicKey.parse, SecretKey.parse):
        for form in (text, f"k:{text}"):
            with suppress(KeyFormatError):
                parse(form)
