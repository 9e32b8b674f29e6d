"""Narinfos from values to text and back, and any text at all."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import example, given
from hypothesis import strategies as st

from nixfetch.errors import TrustError
from nixfetch.formats.cacheinfo import CacheInfo, CacheInfoError
from nixfetch.formats.listing import ListingError, parse
from nixfetch.formats.narinfo import NarInfo, NarInfoError
from nixfetch.plan.trust import TrustPolicy, UnsignedError
from property.strategies import narinfos, secret_keys

if TYPE_CHECKING:
    from nixfetch.formats.signing import SecretKey


@given(info=narinfos)
def test_what_was_rendered_parses_to_the_same(info: NarInfo) -> None:
    raw = info.render()
    parsed = NarInfo.parse(raw)
    assert parsed == info
    assert parsed.raw == parsed.render() == raw


@given(info=narinfos, data=st.data(), crlf=st.booleans(), last=st.booleans())
def test_order_line_ends_and_blank_lines_do_not_matter(
    info: NarInfo, data: st.DataObject, *, crlf: bool, last: bool
) -> None:
    lines = info.render().splitlines()
    known = [line for line in lines if not line.startswith((b"System", b"X-Own", b"sig"))]
    shuffled = data.draw(st.permutations(known))
    end = b"\r\n" if crlf else b"\n"
    raw = (end * 2).join(shuffled) + (end if last else b"")
    parsed = NarInfo.parse(raw)
    canonical = replace(parsed, signatures=tuple(sorted(parsed.signatures, key=str)))
    assert canonical == replace(info, extra=())


@given(info=narinfos, data=st.data())
def test_every_prefix_parses_or_is_refused(info: NarInfo, data: st.DataObject) -> None:
    raw = info.render()
    with suppress(NarInfoError):
        NarInfo.parse(raw[: data.draw(st.integers(0, len(raw)))])


lines = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "StorePath",
                "URL",
                "Compression",
                "FileHash",
                "FileSize",
                "NarHash",
                "NarSize",
                "References",
                "Deriver",
                "Sig",
                "CA",
                "Ünknown",
                "",
            ]
        ),
        st.sampled_from([": ", ":", ""]),
        st.text(max_size=30),
    ),
    max_size=8,
).map(lambda some: "\n".join("".join(line) for line in some).encode("utf-8", "replace"))


@given(raw=lines | st.binary(max_size=200), info=narinfos)
def test_junk_is_a_narinfo_error(raw: bytes, info: NarInfo) -> None:
    for text in (raw, info.render() + raw):
        with suppress(NarInfoError):
            NarInfo.parse(text)


@given(info=narinfos, place=st.integers(0), byte=st.integers(0, 255))
def test_damage_is_a_narinfo_error_or_another_narinfo(info: NarInfo, place: int, byte: int) -> None:
    raw = bytearray(info.render())
    raw[place % len(raw)] = byte
    with suppress(NarInfoError):
        NarInfo.parse(NarInfo.parse(bytes(raw)).render())


@given(info=narinfos, key=secret_keys, data=st.data())
def test_a_signature_speaks_for_the_signed_fields_and_no_others(
    info: NarInfo, key: SecretKey, data: st.DataObject
) -> None:
    policy = TrustPolicy(keys=(key.public(),))
    info = replace(info, ca=None)
    info = replace(info, signatures=(key.sign(info.fingerprint()),))
    assert policy.admit(info).signed_by == (key.name,)
    unsigned = replace(info, url="elsewhere", compression="br", deriver=None, file_hash=None)
    assert policy.admit(unsigned).info is unsigned
    other = data.draw(narinfos)
    for field in ("path", "nar_hash", "nar_size", "references"):
        if getattr(other, field) == getattr(info, field):
            continue
        forged = replace(info, **{field: getattr(other, field)})
        with suppress(UnsignedError):
            policy.admit(forged)
            raise AssertionError(field)


@given(info=narinfos, key=secret_keys)
def test_admit_gives_a_trusted_one_or_a_trust_error(info: NarInfo, key: SecretKey) -> None:
    with suppress(TrustError):
        assert TrustPolicy(keys=(key.public(),)).admit(info).info is info


@given(raw=st.binary(max_size=100) | st.text(max_size=60).map(str.encode))
@example(raw=b"Priority: \xd9\xa3\n")
@example(raw=b"Priority: -\n")
def test_junk_is_a_cache_info_or_an_error(raw: bytes) -> None:
    for text in (raw, b"Priority: " + raw):
        with suppress(CacheInfoError):
            CacheInfo.parse(text)


json_nodes = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda nodes: (
        st.dictionaries(st.text(max_size=3), nodes, max_size=3)
        | st.fixed_dictionaries(
            {"type": st.sampled_from(["regular", "symlink", "directory", "x"]), "size": nodes},
            optional={"target": nodes, "entries": nodes, "executable": nodes, "narOffset": nodes},
        )
    ),
)


@given(root=json_nodes)
@example(root={"type": "symlink", "target": "\ud800"})
@example(root={"type": "directory", "entries": {"\ud800": {}}})
def test_any_json_is_a_listing_or_an_error(root: object) -> None:
    with suppress(ListingError):
        parse(json.dumps({"version": 1, "root": root}).encode())
