"""The store paths below were printed by real Nix 2.8 (and 2.34 where said), for this content:

a file `hello` of five bytes, and a directory of `SAMPLE`'s kind; the differential tests do it
again with whatever Nix is installed.
"""

from __future__ import annotations

import pytest

from nixfetch.errors import FormatError
from nixfetch.formats.contentaddress import ContentAddress, ContentAddressError, Method
from nixfetch.formats.hashes import Hash, sha256
from nixfetch.formats.storepath import StorePath, StorePathError

HELLO = "094qif9n4cq4fdg459qzbhg1c6wywawwaaivx0k0x8xhbyx4vwic"
TREE = "0f1gpwy700i301k59smq2fn1lh2x08x6w4jzcqqxpkvnidp2y3z3"
A_TXT = StorePath("wzflyq5q9kjg4p27yck2nnispnblxsnh-a.txt")
B = StorePath("pxvcv8a2q21xkd9l7zrzb2xlqzah47md-b")


@pytest.mark.parametrize(
    ("ca", "path"),
    [
        # nix-store --add-fixed, --print-fixed-path, of the file
        ("fixed:md5:4jqlbi14cxf6wpcajbphm40hax", "342dzaykcjd3rvij0c30hwxqcgbfwmmg-a.txt"),
        ("fixed:sha1:9m1skbnr5i43n3yypvda5s65vhfwdx5a", "f4sna2crd7kcp0dn4aav72m0r5xgnx58-a.txt"),
        (f"fixed:sha256:{HELLO}", "9ywzl3azd62gr87wdf3qy59cf9cz4rgz-a.txt"),
        (
            (
                "fixed:sha512:11w1pmwfdpz9pisbhp5qiv38q6dmidq2ipcqykw3p0sb6yrqcij7"
                "9rwcwcjbxyzwbdal349qbxrncbk7pmd6snljrfpiwv2pljd4wcv"
            ),
            "ykpkmccascagvidp1x964k9ypgllmzzi-a.txt",
        ),
        # nix-store --add-fixed --recursive, of the directory; sha256 is nix-store --add
        ("fixed:r:md5:0zzk2iz8zc16blf9858sv37c82", "m2yizgzfhr2wzbl0qixrrvzvd9ll6r81-d"),
        ("fixed:r:sha1:lzznz23vb2sphqcinpvfrqysdfi0s50p", "lrnp9r3d4v9liczl32cnh7ngx0wc0x79-d"),
        (f"fixed:r:sha256:{TREE}", "6lf4adkdb3fhkmjfw9lcmd2p3icppp6p-d"),
        (
            (
                "fixed:r:sha512:1i0k8byp9l0mgjq25mqnff078m2aszvgfhpvrxmv2ynfyy1nhbvj"
                "4kp9mzj2zk68yyzi58g1xbawkmb02kzllny5a2dfb3zcqhhphfg"
            ),
            "f0il3xi0nffxf04shh1rlw8bp3vgcgz5-d",
        ),
        # 2.34: nix store add --mode nar --hash-algo blake3, --mode git
        (
            "fixed:r:blake3:1zh3v29ywfw3xwmij5fsrlzc5hpa9jn1pi17k2sbzrfm1kmn6mk2",
            "6crnm49gn4a19r4g45xfwmqxqgsmdq8r-dirb3",
        ),
        (
            "fixed:git:sha1:gz1g1i8grssm3dnaxblxw8h04krnp1cq",
            "6pfd4ymvg2jzvpsdajjhpwg2imb69j9w-gitdir",
        ),
        # builtins.toFile
        (f"text:sha256:{HELLO}", "wzflyq5q9kjg4p27yck2nnispnblxsnh-a.txt"),
    ],
)
def test_without_references(ca: str, path: str) -> None:
    address = ContentAddress.parse(ca)
    assert str(address) == ca
    assert address.path(path[33:]) == StorePath(path)
    assert address.is_address_of(StorePath(path), ())
    assert not address.is_address_of(StorePath(path), [A_TXT])
    assert not address.is_address_of(StorePath(path), [StorePath(path)])
    assert not address.is_address_of(A_TXT, ()) or path == A_TXT.base


def test_text_with_references() -> None:
    # builtins.toFile "t" "see ${builtins.toFile "a.txt" "hello"} and ${builtins.toFile "b" "b"}"
    text = ContentAddress(Method.TEXT, sha256(f"see {A_TXT} and {B}".encode()))
    made = text.path("t", [A_TXT, B])
    assert made == StorePath("h87af6y1wd3yqm3ml2qkvrkxwc8l24gw-t")
    assert text.path("t", [B, A_TXT, B]) == made
    assert not text.is_address_of(made, [A_TXT])
    assert not text.is_address_of(made, [A_TXT, B, made])


def test_a_derivation_is_a_text() -> None:
    # nix-instantiate, of a derivation with a.txt as its source
    ca = ContentAddress.parse("text:sha256:0bsvfmi2ilf2nwmdqdnb9qj8yz4s6rwihghnbg7csvd02fd85pjn")
    assert ca.is_address_of(StorePath("kx5krjbfww7f1f1xzb5m0f7gcn7agi27-drv.drv"), [A_TXT])


@pytest.mark.parametrize(
    ("ca", "path"),
    [
        # nix store make-content-addressed, by 2.8, then 2.34, of the same path
        (
            "fixed:r:sha256:08xka4q1g2lrk3fc1vynzzfxf0mmsfnakyc7q4dhpcghw7kv69ha",
            "x6lavq09h07n0gz0n184w9jln2wxdxsq-selfish",
        ),
        (
            "fixed:r:sha256:0f6gd9p6pi2qv14z85j9cw5xkp5xv8havlq1mcfc4lqrhz8bx2l3",
            "zza8325ysrkf6hj5mhs5bd0ad2lz5vhb-selfish",
        ),
    ],
)
def test_self_reference(ca: str, path: str) -> None:
    address = ContentAddress.parse(ca)
    assert address.is_address_of(StorePath(path), [StorePath(path)])
    assert address.path("selfish", self_reference=True) == StorePath(path)
    assert not address.is_address_of(StorePath(path), ())


@pytest.mark.parametrize(
    ("ca", "problem"),
    [
        ("", "unknown kind of content address"),
        (f"source:sha256:{HELLO}", "unknown kind of content address"),
        ("text:md5:4jqlbi14cxf6wpcajbphm40hax", "text is hashed with sha256 only"),
        ("fixed:git:md5:4jqlbi14cxf6wpcajbphm40hax", "git hashes with sha1 or sha256 only"),
        ("fixed:", "hash has no algorithm"),
        ("fixed:r:sha256:zz", "digest has the wrong length"),
        (f"fixed:text:sha256:{HELLO}", "unknown hash algorithm"),
    ],
)
def test_refused(ca: str, problem: str) -> None:
    with pytest.raises(FormatError) as caught:
        ContentAddress.parse(ca)
    assert caught.value.problem == problem


def test_kinds_that_have_no_references() -> None:
    flat = ContentAddress.parse(f"fixed:sha256:{HELLO}")
    with pytest.raises(ContentAddressError, match="this kind of content address has no references"):
        flat.path("a", [B])
    with pytest.raises(ContentAddressError, match="this kind of content address has no references"):
        flat.path("a", self_reference=True)
    text = ContentAddress.parse(f"text:sha256:{HELLO}")
    with pytest.raises(ContentAddressError, match="a text cannot mention itself"):
        text.path("a", self_reference=True)


def test_names_are_checked() -> None:
    with pytest.raises(StorePathError):
        ContentAddress(Method.FLAT, Hash("md5", bytes(16))).path("a/b")
