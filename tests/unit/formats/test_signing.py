from __future__ import annotations

import base64
import traceback
from typing import TYPE_CHECKING

import pytest

from nixfetch.formats.signing import KeyFormatError, PublicKey, SecretKey, Signature

if TYPE_CHECKING:
    from collections.abc import Callable

# cache.nixos.org's key, and what it signed for net-tools-1.60.
CACHE = PublicKey.parse("cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=")
FINGERPRINT = (
    b"1;/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60_p20170221182432;"
    b"sha256:0lxjvvpr59c2mdram7ympy5ay741f180kv3349hvfc3f8nrmbqf6;464152;"
    b"/nix/store/7gx4kiv5m0i7d7qkixq2cwzbr10lvxwc-glibc-2.27"
)
SIGNATURE = Signature.parse(
    "cache.nixos.org-1:sn5s/RrqEI+YG6/PjwdbPjcAC7rcta7sJU4mFOawGvJBLsWkyLtBrT2EuFt/LJjWkTZ+ZWOI9NTt"
    "jo/woMdvAg=="
)
KEY = SecretKey.from_seed("k-1", bytes(range(32)))
ORDER = 2**252 + 27742317777372353535851937790883648493  # of Ed25519's group


def test_a_real_signature() -> None:
    assert CACHE.signed(SIGNATURE, FINGERPRINT)
    assert not CACHE.signed(SIGNATURE, FINGERPRINT + b" ")


def test_a_real_secret_key() -> None:
    # nix key generate-secret, and nix key convert-secret-to-public
    secret = SecretKey.parse(
        "fixture-1:pup8PmpCl9oKORIhVXaqjdzRTKyPoVdf/h7Srr2Y3wL6c27CFA0lFByTpUxFUi8XW3GTHVuFRqn20vt8"
        "QHHkww=="
    )
    assert str(secret.public()) == "fixture-1:+nNuwhQNJRQck6VMRVIvF1txkx1bhUap9tL7fEBx5MM="


def test_rfc_8032_vector() -> None:
    # RFC 8032, section 7.1, test 2.
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    key = SecretKey.from_seed("rfc", seed)
    public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert key.public().data.hex() == public
    assert key.sign(b"\x72").data.hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert key.text() == "rfc:" + base64.b64encode(seed + key.public().data).decode()


def test_generate_sign_verify() -> None:
    signature = KEY.sign(b"message")
    assert KEY.sign(b"message") == signature
    assert Signature.parse(str(signature)) == signature
    assert PublicKey.parse(str(KEY.public())).signed(signature, b"message")
    assert SecretKey.parse(KEY.text()) == KEY


def test_another_name_or_key_does_not_verify() -> None:
    signature = KEY.sign(b"message")
    public = KEY.public()
    assert not PublicKey("k-2", public.data).signed(signature, b"message")
    other = SecretKey.from_seed("k-1", bytes(32)).public()
    assert not other.signed(signature, b"message")


@pytest.mark.parametrize("size", [0, 1, 63, 65, 128])
def test_a_signature_of_another_length_is_merely_bad(size: int) -> None:
    signature = Signature.parse(f"k-1:{base64.b64encode(bytes(size)).decode()}")
    assert len(signature.data) == size
    assert not KEY.public().signed(signature, b"message")


def test_a_malleable_signature_does_not_verify() -> None:
    # (R, S + order) satisfies the equation too; RFC 8032 wants S below the order.
    signature = KEY.sign(b"message")
    s = int.from_bytes(signature.data[32:], "little") + ORDER
    twin = Signature("k-1", signature.data[:32] + s.to_bytes(32, "little"))
    assert not KEY.public().signed(twin, b"message")


def test_a_public_key_that_is_no_point_signs_nothing() -> None:
    for data in (bytes(32), b"\xff" * 32, b"\x02" + bytes(31)):
        assert not PublicKey("k-1", data).signed(KEY.sign(b"message"), b"message")


ANY = (Signature.parse, PublicKey.parse, SecretKey.parse)
NAME_PROBLEM = "a key name is printable ASCII without blanks and colons"


@pytest.mark.parametrize("parse", ANY)
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected NAME:BASE64"),
        ("AAAA", "expected NAME:BASE64"),
        (":AAAA", NAME_PROBLEM),
        ("a b:AAAA", NAME_PROBLEM),
        ("é:AAAA", NAME_PROBLEM),
        ("a\n:AAAA", NAME_PROBLEM),
        ("a" * 256 + ":AAAA", NAME_PROBLEM),
        ("a:!", "expected base 64 behind the colon"),
        ("a:AAA", "expected base 64 behind the colon"),
        ("a:AAAA:AAAA", "expected base 64 behind the colon"),
    ],
)
def test_malformed(parse: Callable[[str], object], text: str, problem: str) -> None:
    with pytest.raises(KeyFormatError) as caught:
        parse(text)
    assert caught.value.problem == problem


def test_keys_of_the_wrong_kind_say_so() -> None:
    with pytest.raises(KeyFormatError, match="this is a secret key, not a public one") as caught:
        PublicKey.parse(KEY.text())
    assert caught.value.hint == "`nixfetch key public` prints its public half"
    with pytest.raises(KeyFormatError, match="this is a public key, not a secret one"):
        SecretKey.parse(str(KEY.public()))
    with pytest.raises(KeyFormatError, match="a public key has 32 bytes"):
        PublicKey.parse("k:AAAA")
    with pytest.raises(KeyFormatError, match="a secret key has 64 bytes"):
        SecretKey.parse("k:AAAA")


@pytest.mark.parametrize("name", ["", "a b", "a:b", "é", "a" * 256])
def test_names_that_no_key_may_have(name: str) -> None:
    with pytest.raises(KeyFormatError, match=NAME_PROBLEM):
        SecretKey.from_seed(name, bytes(32))


def test_a_seed_has_32_bytes() -> None:
    with pytest.raises(KeyFormatError, match="a seed has 32 bytes"):
        SecretKey.from_seed("k", bytes(31))


def secret_texts() -> list[str]:
    name, _, digits = KEY.text().partition(":")
    halves = base64.b64encode(KEY.seed + bytes(32)).decode()
    return [
        f"{name}:{halves}",  # the halves do not match
        f"{name}:{digits[:-4]}",  # another length
        f"{name}:{digits[:-1]}",  # no base 64
        f"{name}:{digits}!",
        f"two words:{digits}",
        digits,  # no name
    ]


@pytest.mark.parametrize("text", secret_texts())
def test_no_error_shows_a_secret(text: str) -> None:
    with pytest.raises(KeyFormatError) as caught:
        SecretKey.parse(text)
    shown = "".join(traceback.format_exception(caught.value, chain=True))
    error: BaseException | None = caught.value
    while error is not None:
        shown += f"{error!r} {error} {vars(error)}"
        error = error.__cause__ or error.__context__
    assert digits_of(KEY.seed) not in shown.replace("\n", "")


def digits_of(secret: bytes) -> str:
    return base64.b64encode(secret).decode()[:12]


def test_a_secret_key_does_not_show_its_seed() -> None:
    assert repr(KEY) == "SecretKey(name='k-1')"
    assert str(KEY) == "SecretKey(name='k-1')"
