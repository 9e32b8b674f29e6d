"""41 narinfos of real caches: what signs them, what addresses them, how they are written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from data_dir import data_dir, rows
from nixfetch.errors import TrustError
from nixfetch.formats.narinfo import NarInfo, NarInfoError
from nixfetch.formats.signing import PublicKey
from nixfetch.plan.trust import TrustPolicy

if TYPE_CHECKING:
    from pathlib import Path

KEYS, SIGNATURES, CA = (
    "key(s)",
    "signature verified (per Sig line, in file order)",
    "ca check (path recomputed from CA + References)",
)
UNPARSEABLE = {"swxfvpa96x0qc9v2g7jvil2301dflvhg.narinfo"}  # a template: `References: {iconv}`
# Verifies only with references in the order of the file; real Nix refuses it, and so do we.
UNSORTED = "yes(refs-in-given-order-only)"
HEX = "a hash in hex, which Nix writes in base 32"
SYSTEM = "old Nix wrote `System` before the signatures"
NO_REFERENCES = "no `References` line, where Nix writes an empty one"
NOT_CANONICAL = {
    "00bgd045z0d4icpbc2yyz4gx48ak44la.2.narinfo": HEX,
    "0igj2chcswdviym64vpa6093dnb8nf3s.narinfo": SYSTEM,
    "0vpqfxbkx0ffrnhbws6g9qwhmliksz7f.narinfo": HEX,
    "7k3i624w0rfrvcrbbdrw0zrvasywxmz4.2.narinfo": HEX,
    "a1jjalr4csx9hcga7fnm122aqabrjnch.narinfo": SYSTEM + "; no `Compression` line",
    "i869ixp5nyfr6vagqrddfs8h9hc4g13k.narinfo": SYSTEM,
    "ifvqjv4yndbf82kh9sy143900y0myrxx.narinfo": SYSTEM,
    "mg5riyrz6hva7njw82gr5ghvajklkccq.narinfo": NO_REFERENCES,
    "mi08jhbcjib1i1kgvbd0fxn2yrnzdv4a.narinfo": HEX,
    "wj7phsmi7ncidl8k00p489krqss7n9sd.narinfo": NO_REFERENCES,
    "xcp9cav49dmsjbwdjlmkjxj10gkpx553.3.narinfo": HEX,
    "xi429w4ddvb1r77978hm7jfb2jsn559r.narinfo": "references that are not sorted",
}


@pytest.fixture
def folder() -> Path:
    return data_dir("real-narinfo")


@pytest.fixture
def manifest(folder: Path) -> dict[str, dict[str, str]]:
    table = {row["file"]: row for row in rows(folder / "MANIFEST.tsv")}
    assert len(table) == 41
    return table


@pytest.fixture
def infos(folder: Path, manifest: dict[str, dict[str, str]]) -> dict[str, NarInfo]:
    """Those that parse."""
    parsed = {}
    for file in manifest.keys() - UNPARSEABLE:
        parsed[file] = NarInfo.parse((folder / file).read_bytes())
    return parsed


def keys_of(row: dict[str, str]) -> dict[str, PublicKey | None]:
    """The keys of a row by name; None where only the name is known."""
    texts = row[KEYS].split()
    return {
        text.partition(":")[0]: None if text.endswith(":?") else PublicKey.parse(text)
        for text in texts
    }


def verdict(info: NarInfo | None, row: dict[str, str]) -> str:
    """As the manifest has it, one word a signature."""
    if info is None:
        return "NO"
    if not info.signatures:
        return "unsigned"
    words = []
    for signature in info.signatures:
        key = keys_of(row).get(signature.key_name)
        if key is None:
            words.append("no-key")
        else:
            words.append("yes" if key.signed(signature, info.fingerprint()) else "NO")
    return " ".join(words)


def test_signatures(manifest: dict[str, dict[str, str]], infos: dict[str, NarInfo]) -> None:
    ours = {file: verdict(infos.get(file), row) for file, row in manifest.items()}
    theirs = {file: row[SIGNATURES].replace(UNSORTED, "NO") for file, row in manifest.items()}
    assert ours == theirs


def test_content_addresses(manifest: dict[str, dict[str, str]], infos: dict[str, NarInfo]) -> None:
    ours = {
        file: "ca-path-ok"
        if info.ca is not None and info.ca.is_address_of(info.path, info.references)
        else ""
        for file, info in infos.items()
    }
    assert ours == {file: manifest[file][CA] for file in infos}
    assert sum(map(bool, ours.values())) == 10


def test_what_does_not_parse(folder: Path) -> None:
    for file in UNPARSEABLE:
        with pytest.raises(NarInfoError) as caught:
            NarInfo.parse((folder / file).read_bytes())
        assert caught.value.facts["field"] == "References"


def test_what_nix_wrote_we_write_alike(infos: dict[str, NarInfo]) -> None:
    different = {file for file, info in infos.items() if info.render() != info.raw}
    assert different == set(NOT_CANONICAL)
    for info in infos.values():
        assert NarInfo.parse(info.render()) == info


def test_the_reasons_are_true(infos: dict[str, NarInfo]) -> None:
    def lines(raw: bytes) -> set[bytes]:
        return set(raw.splitlines())

    for file, reason in NOT_CANONICAL.items():
        info = infos[file]
        gone = lines(info.raw) - lines(info.render())
        added = lines(info.render()) - lines(info.raw)
        match reason:
            case "references that are not sorted":
                [before], [after] = gone, added
                assert sorted(before.split()) == sorted(after.split())
            case _ if reason == HEX:
                assert all(b"Hash: sha256:" in line and len(line) > 70 for line in gone)
            case _ if reason == NO_REFERENCES:
                assert (gone, added) == (set(), {b"References: "})
            case _:
                assert gone == set()
                assert added <= {b"Compression: bzip2"}
                assert info.extra[0][0] == "System"


def test_admission(manifest: dict[str, dict[str, str]], infos: dict[str, NarInfo]) -> None:
    keys = {key for row in manifest.values() for key in keys_of(row).values() if key is not None}
    policy = TrustPolicy(tuple(keys))
    admitted, expected = {}, {}
    for file, info in infos.items():
        row = manifest[file]
        try:
            admitted[file] = bool(policy.admit(info))
        except TrustError:
            admitted[file] = False
        expected[file] = "yes" in row[SIGNATURES].split() or row[CA] == "ca-path-ok"
    assert admitted == expected
    assert [*expected.values()].count(False) == 5


def test_every_admitted_one_is_refused_with_a_changed_size(infos: dict[str, NarInfo]) -> None:
    for file, info in infos.items():
        changed = NarInfo.parse(
            info.raw.replace(b"NarSize: %d" % info.nar_size, b"NarSize: %d" % (info.nar_size + 1))
        )
        if info.ca is None:
            with pytest.raises(TrustError):
                TrustPolicy().admit(changed)
        for signature in changed.signatures:
            assert not any(
                key.signed(signature, changed.fingerprint())
                for key in (
                    PublicKey.parse(
                        "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="
                    ),
                )
            ), file
