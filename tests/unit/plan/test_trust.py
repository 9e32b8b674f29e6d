from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from nixfetch.errors import TrustError
from nixfetch.formats.contentaddress import ContentAddress, Method
from nixfetch.formats.hashes import Hash, sha256
from nixfetch.formats.narinfo import NarInfo
from nixfetch.formats.signing import SecretKey, Signature
from nixfetch.formats.storepath import StorePath
from nixfetch.plan.trust import (
    FalseContentAddressError,
    Trusted,
    TrustPolicy,
    UnsignedError,
    WeakHashError,
)

ORDER = 2**252 + 27742317777372353535851937790883648493  # of Ed25519's group


def key(name: str, number: int) -> SecretKey:
    return SecretKey.from_seed(name, bytes([number]) * 32)


ALICE, BOB, CAROL = key("alice-1", 1), key("bob-1", 2), key("carol-1", 3)
PATH = StorePath("00bgd045z0d4icpbc2yyz4gx48ak44la-a")
OTHER = StorePath("7gx4kiv5m0i7d7qkixq2cwzbr10lvxwc-b")
INFO = NarInfo(path=PATH, nar_hash=sha256(b"nar"), nar_size=3, references=(OTHER,), url="nar/a")
CA = ContentAddress(Method.RECURSIVE, sha256(b"nar"))
ADDRESSED = replace(INFO, path=CA.path("a", [OTHER]), ca=CA)


def signed(info: NarInfo, *keys: SecretKey) -> NarInfo:
    made = tuple(key.sign(info.fingerprint()) for key in keys)
    return replace(info, signatures=info.signatures + made)


def policy(*keys: SecretKey, needed: int = 1, check: bool = True) -> TrustPolicy:
    return TrustPolicy(tuple(key.public() for key in keys), needed=needed, check=check)


def refused(info: NarInfo, by: TrustPolicy) -> TrustError:
    with pytest.raises(TrustError) as caught:
        by.admit(info)
    return caught.value


def test_one_good_signature_is_enough() -> None:
    info = signed(INFO, ALICE)
    assert policy(ALICE, BOB).admit(info) == Trusted(info, ("alice-1",))


def test_all_who_signed_are_named_in_order() -> None:
    assert policy(ALICE, BOB).admit(signed(INFO, BOB, CAROL, ALICE)).signed_by == (
        "alice-1",
        "bob-1",
    )


def test_any_key_of_a_name_will_do() -> None:
    # Nix takes the first of a name only.
    retired = key("alice-1", 9)
    assert policy(retired, ALICE).admit(signed(INFO, ALICE)).signed_by == ("alice-1",)
    assert policy(ALICE, retired).admit(signed(INFO, ALICE)).signed_by == ("alice-1",)


def test_n_of_m_counts_names_not_signatures() -> None:
    retired = key("alice-1", 9)
    two = policy(ALICE, retired, BOB, needed=2)
    assert two.admit(signed(INFO, ALICE, BOB)).signed_by == ("alice-1", "bob-1")
    error = refused(signed(INFO, ALICE, ALICE, retired), two)
    assert error.problem == "too few trusted signatures"
    assert error.facts["good"] == 1


def test_a_bad_signature_beside_a_good_one_does_no_harm() -> None:
    bad = [Signature("alice-1", b""), Signature("alice-1", bytes(64)), Signature("mallory", b"x")]
    info = signed(replace(INFO, signatures=tuple(bad)), ALICE)
    assert policy(ALICE).admit(info).signed_by == ("alice-1",)


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_signature_of_another_length_is_merely_bad(size: int) -> None:
    info = replace(INFO, signatures=(Signature("alice-1", bytes(size)),))
    assert refused(info, policy(ALICE)).problem == "signature is wrong"


def test_a_malleable_signature_does_not_count() -> None:
    [signature] = signed(INFO, ALICE).signatures
    s = int.from_bytes(signature.data[32:], "little") + ORDER
    twin = Signature("alice-1", signature.data[:32] + s.to_bytes(32, "little"))
    assert refused(replace(INFO, signatures=(twin,)), policy(ALICE)).problem == "signature is wrong"


@pytest.mark.parametrize(
    "forged",
    [
        {"path": OTHER},
        {"path": StorePath("00bgd045z0d4icpbc2yyz4gx48ak44la-b")},
        {"references": ()},
        {"references": (PATH, OTHER)},
        {"nar_hash": sha256(b"other")},
        {"nar_size": 4},
    ],
)
def test_a_signature_is_for_one_path_with_its_references(forged: dict[str, object]) -> None:
    info = replace(signed(INFO, ALICE), **forged)  # type: ignore[arg-type]
    assert refused(info, policy(ALICE)).problem == "signature is wrong"


def test_a_content_addressed_path_needs_no_signature() -> None:
    assert TrustPolicy().admit(ADDRESSED) == Trusted(ADDRESSED, content_addressed=True)
    info = signed(ADDRESSED, ALICE)
    assert policy(ALICE, needed=5).admit(info) == Trusted(
        info, ("alice-1",), content_addressed=True
    )


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    "forged",
    [
        {"path": PATH},
        {"references": ()},
        {"ca": ContentAddress(Method.RECURSIVE, sha256(b"other"))},
        {"ca": ContentAddress(Method.FLAT, sha256(b"nar"))},
    ],
)
def test_a_false_content_address_is_refused_whatever_else_holds(
    forged: dict[str, object], *, check: bool
) -> None:
    info = signed(replace(ADDRESSED, **forged), ALICE)  # type: ignore[arg-type]
    by = policy(ALICE, check=check)
    for here in (True, False):
        with pytest.raises(FalseContentAddressError) as caught:
            by.admit(info, check=here)
        assert caught.value.problem == "content address is not that of the path"
        assert caught.value.facts == {"path": info.path, "ca": str(info.ca)}


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha512", "blake3"])
def test_a_nar_hash_other_than_sha256_is_refused(algorithm: str) -> None:
    sizes = {"md5": 16, "sha1": 20, "sha512": 64, "blake3": 32}
    weak = replace(INFO, nar_hash=Hash(algorithm, bytes(sizes[algorithm])))
    for check in (True, False):
        with pytest.raises(WeakHashError) as caught:
            policy(ALICE).admit(signed(weak, ALICE), check=check)
        assert caught.value.problem == "NAR hash is not sha256"
        assert caught.value.facts == {"path": PATH, "algorithm": algorithm}


@pytest.mark.parametrize("where", ["policy", "cache"])
def test_nothing_is_needed_when_nothing_is_checked(where: str) -> None:
    by = policy(ALICE, check=where == "cache")
    assert by.admit(INFO, check=where == "policy") == Trusted(INFO)
    # Who signed is said all the same.
    assert by.admit(signed(INFO, ALICE), check=where == "policy").signed_by == ("alice-1",)


def test_unsigned() -> None:
    error = refused(INFO, policy(ALICE))
    assert isinstance(error, UnsignedError)
    assert error.problem == "path is not signed"
    assert error.hint == (
        "sign it in the cache (`nix store sign`), or accept it with --no-check-sigs"
    )
    assert error.exit_code == 4
    assert error.facts == {
        "path": PATH,
        "keys_seen": [],
        "keys_trusted": ["alice-1"],
        "good": 0,
        "needed": 1,
    }


def test_wrong_signature() -> None:
    error = refused(signed(INFO, key("alice-1", 9), BOB), policy(ALICE))
    assert error.problem == "signature is wrong"
    assert error.hint == "the cache was tampered with, or signed with another key of that name"
    assert error.facts["keys_seen"] == ["alice-1", "bob-1"]


def test_unknown_key() -> None:
    error = refused(signed(INFO, BOB, CAROL), policy(ALICE))
    assert error.problem == "path is signed by no trusted key"
    assert error.hint == "if you trust it, add --trusted-key bob-1:<its public key>"
    assert error.facts["keys_trusted"] == ["alice-1"]


def test_no_key_at_all() -> None:
    error = refused(signed(INFO, ALICE), TrustPolicy())
    assert error.problem == "path is signed by no trusted key"
    assert error.facts["keys_trusted"] == []


def test_too_few() -> None:
    error = refused(signed(INFO, ALICE), policy(ALICE, BOB, needed=2))
    assert error.problem == "too few trusted signatures"
    assert error.hint == "lower --sigs-needed, or trust more keys"
    assert (error.facts["good"], error.facts["needed"]) == (1, 2)


def test_signatures_read_from_text_count_too() -> None:
    text = f"alice-1:{base64.b64encode(ALICE.sign(INFO.fingerprint()).data).decode()}"
    info = replace(INFO, signatures=(Signature.parse(text),))
    assert policy(ALICE).admit(info).signed_by == ("alice-1",)
