from __future__ import annotations

from dataclasses import replace

import pytest

from nixfetch.formats.contentaddress import ContentAddress
from nixfetch.formats.hashes import Hash
from nixfetch.formats.narinfo import MAX_SIZE, NarInfo, NarInfoError
from nixfetch.formats.signing import KeyFormatError
from nixfetch.formats.storepath import StorePath, StorePathError

PATH = "00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60_p20170221182432"
GLIBC = "7gx4kiv5m0i7d7qkixq2cwzbr10lvxwc-glibc-2.27"
SIG = (
    "cache.nixos.org-1:sn5s/RrqEI+YG6/PjwdbPjcAC7rcta7sJU4mFOawGvJBLsWkyLtBrT2EuFt/LJjWkTZ+ZWOI9NTt"
    "jo/woMdvAg=="
)
NAR_HASH = "sha256:0lxjvvpr59c2mdram7ympy5ay741f180kv3349hvfc3f8nrmbqf6"
FILE_HASH = "sha256:1094wph9z4nwlgvsd53abfz8i117ykiv5dwnq9nnhz846s7xqd7d"
CA = "fixed:r:sha256:0f1gpwy700i301k59smq2fn1lh2x08x6w4jzcqqxpkvnidp2y3z3"
# As cache.nixos.org has it, with a content address added.
LINES = {
    "StorePath": f"/nix/store/{PATH}",
    "URL": "nar/1094wph9z4nwlgvsd53abfz8i117ykiv5dwnq9nnhz846s7xqd7d.nar.xz",
    "Compression": "xz",
    "FileHash": FILE_HASH,
    "FileSize": "114980",
    "NarHash": NAR_HASH,
    "NarSize": "464152",
    "References": GLIBC,
    "Deriver": "10dx1q4ivjb115y3h90mipaaz533nr0d-net-tools-1.60_p20170221182432.drv",
    "Sig": SIG,
    "CA": CA,
}


def text(**changes: str | None) -> bytes:
    """The narinfo above with some fields changed, or left out where None is given."""
    fields = {name: value for name, value in (LINES | changes).items() if value is not None}
    return "".join(f"{name}: {value}\n" for name, value in fields.items()).encode()


def refused(raw: bytes) -> NarInfoError:
    with pytest.raises(NarInfoError) as caught:
        NarInfo.parse(raw)
    return caught.value


def test_a_real_one() -> None:
    info = NarInfo.parse(text())
    assert info.path == StorePath(PATH)
    assert info.url == LINES["URL"]
    assert info.compression == "xz"
    assert (info.file_hash, info.file_size) == (Hash.parse(FILE_HASH), 114980)
    assert (info.nar_hash, info.nar_size) == (Hash.parse(NAR_HASH), 464152)
    assert info.references == (StorePath(GLIBC),)
    assert info.deriver == StorePath(LINES["Deriver"])
    assert [str(signature) for signature in info.signatures] == [SIG]
    assert info.ca == ContentAddress.parse(CA)
    assert info.render() == info.raw == text()
    assert info.fingerprint().decode() == (
        f"1;/nix/store/{PATH};{NAR_HASH};464152;/nix/store/{GLIBC}"
    )


def test_only_four_fields_are_required() -> None:
    optional = ("Compression", "FileHash", "FileSize", "References", "Deriver", "Sig", "CA")
    info = NarInfo.parse(text(**dict.fromkeys(optional)))
    assert info.compression == "bzip2"
    assert (info.file_hash, info.file_size, info.references) == (None, None, ())
    assert (info.deriver, info.signatures, info.ca) == (None, (), None)
    assert info.fingerprint().endswith(b";464152;")


@pytest.mark.parametrize("field", ["Compression", "FileHash", "FileSize", "References", "CA"])
def test_an_empty_optional_field_is_none(field: str) -> None:
    assert NarInfo.parse(text(**{field: ""})) == NarInfo.parse(text(**{field: None}))


def test_an_unknown_deriver_is_none() -> None:
    assert NarInfo.parse(text(Deriver="unknown-deriver")).deriver is None


def test_references_are_sorted_and_each_once() -> None:
    own, other = PATH, "0" * 32 + "-a"
    info = NarInfo.parse(text(References=f"{GLIBC} {own}  {other} {GLIBC} "))
    assert [path.base for path in info.references] == [other, own, GLIBC]


def test_several_signatures_are_kept_in_order_and_written_sorted() -> None:
    raw = text() + b"Sig: b:AAAA\nSig: a:AAAA\n"
    info = NarInfo.parse(raw)
    assert [signature.key_name for signature in info.signatures] == ["cache.nixos.org-1", "b", "a"]
    written = [line for line in info.render().splitlines() if line.startswith(b"Sig")]
    assert written == sorted(written)


def test_unknown_fields_are_kept() -> None:
    info = NarInfo.parse(text(System="x86_64-linux", storepath="x"))
    assert info.extra == (("System", "x86_64-linux"), ("storepath", "x"))
    assert info.render().endswith(b"System: x86_64-linux\nstorepath: x\n")


@pytest.mark.parametrize(
    "raw",
    [
        text()[:-1],
        text().replace(b"\n", b"\r\n"),
        text().replace(b"\n", b"\n\n"),
        text().replace(b": ", b":"),
        b"\n\n" + text(),
        b"".join(sorted(text().splitlines(keepends=True))),
    ],
)
def test_what_real_caches_get_wrong_is_read_as_meant(raw: bytes) -> None:
    info = NarInfo.parse(raw)
    assert info == NarInfo.parse(text())
    assert info.raw == raw
    assert info.render() == text()


@pytest.mark.parametrize("field", ["StorePath", "URL", "NarHash", "NarSize"])
def test_required_fields(field: str) -> None:
    assert refused(text(**{field: None})).problem == "required field is missing"
    error = refused(text(**{field: ""}))
    assert error.problem == "required field is empty"
    assert error.facts == {"field": field}


@pytest.mark.parametrize("field", [name for name in LINES if name != "Sig"])
def test_a_field_that_comes_twice(field: str) -> None:
    error = refused(text() + f"{field}: {LINES[field]}\n".encode())
    assert str(error) == f"field comes twice (field={field}, line=12)"


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("StorePath", PATH, "not in the store directory"),
        ("StorePath", "/nix/store/x", "store path has no 32-digit hash part"),
        ("FileHash", FILE_HASH[7:], "hash has no algorithm"),
        ("NarHash", "sha256:0", "digest has the wrong length"),
        ("NarSize", "0", "expected a number above zero"),
        *(
            ("NarSize", number, "expected a decimal number of at most 64 bits")
            for number in ("+5", "-5", " 5", "5 ", "0x5", str(2**64), "0" * 21)
        ),
        ("FileSize", "1e3", "expected a decimal number of at most 64 bits"),
        ("References", f"/nix/store/{GLIBC}", "store path has no 32-digit hash part"),
        ("References", f"{GLIBC}\t{PATH}", "store path has a name that is not allowed"),
        ("Deriver", "", "field is empty"),
        ("Deriver", f"/nix/store/{GLIBC}", "store path has no 32-digit hash part"),
        ("Sig", "no colon", "expected NAME:BASE64"),
        ("Sig", "", "expected NAME:BASE64"),
        ("CA", "sha256:0", "unknown kind of content address"),
    ],
)
def test_a_bad_value_names_field_and_line(field: str, value: str, problem: str) -> None:
    error = refused(text(**{field: value}))
    assert error.problem == problem
    assert error.facts["field"] == field
    assert error.facts["line"] == list(LINES).index(field) + 1


@pytest.mark.parametrize("field", [name for name in LINES if name not in {"URL", "Compression"}])
@pytest.mark.parametrize("start", ["", "sha256:", "/nix/store/", f"{GLIBC} ", "k:", "fixed:"])
def test_a_long_bad_value_makes_a_short_message(field: str, start: str) -> None:
    assert len(str(refused(text(**{field: start + "!" * 100_000})))) < 500


def test_the_largest_size() -> None:
    assert NarInfo.parse(text(NarSize=str(2**64 - 1))).nar_size == 2**64 - 1


def test_the_cause_is_the_error_of_the_part() -> None:
    assert isinstance(refused(text(StorePath="/nix/store/x")).__cause__, StorePathError)
    assert isinstance(refused(text(Sig="x")).__cause__, KeyFormatError)


def test_a_line_without_a_colon() -> None:
    error = refused(text() + b"x" * 200)
    assert error.problem == "line has no colon"
    assert error.facts == {"line": 12, "text": "x" * 80}


@pytest.mark.parametrize("bad", [b"System: \0", "System: é".encode(), b"\xff"])
def test_only_ascii(bad: bytes) -> None:
    assert refused(text() + bad).problem == "narinfo holds bytes that are not ASCII text"


def test_too_large() -> None:
    filler = b"x: " + b"y" * MAX_SIZE
    error = refused(text() + filler)
    assert error.problem == "narinfo is too large"
    assert error.facts == {"bytes": len(text() + filler), "limit": MAX_SIZE}
    NarInfo.parse((text() + filler)[:MAX_SIZE])


def test_html_is_named() -> None:
    error = refused(b"\n <!doctype html>\n")
    assert error.problem == "this is HTML, not a narinfo"
    assert error.hint == "a proxy or a log-in page answers in place of the cache"


def test_raw_bytes_do_not_count_for_equality() -> None:
    info = NarInfo.parse(text())
    assert replace(info, raw=b"") == info
    assert "raw" not in repr(info)


def test_a_narinfo_has_few_lines() -> None:
    with pytest.raises(NarInfoError, match="too many lines"):
        NarInfo.parse(b"ab:\n" * 1001)
