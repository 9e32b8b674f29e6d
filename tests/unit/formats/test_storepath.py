from __future__ import annotations

import pytest

from nixfetch.formats.storepath import StorePath, StorePathError, is_hash_part

PART = "00bgd045z0d4icpbc2yyz4gx48ak44la"
BASE = f"{PART}-net-tools-1.60_p20170221182432"


def test_parts() -> None:
    path = StorePath.parse(BASE)
    assert str(path) == f"/nix/store/{BASE}"
    assert path.hash_part == PART
    assert path.name == "net-tools-1.60_p20170221182432"
    assert not path.is_derivation
    assert StorePath.parse(f"{PART}-x.drv").is_derivation
    assert StorePath.parse_full(str(path)) == path


@pytest.mark.parametrize("name", ["a", ".foo", "...", "a.-b", "+-._?=", "a" * 211])
def test_names_that_are_allowed(name: str) -> None:
    assert StorePath.parse(f"{PART}-{name}").name == name


@pytest.mark.parametrize(
    ("base", "problem"),
    [
        ("", "store path has no 32-digit hash part"),
        (PART[1:] + "-a", "store path has no 32-digit hash part"),
        (PART.upper() + "-a", "store path has no 32-digit hash part"),
        ("e" + PART[1:] + "-a", "store path has no 32-digit hash part"),
        (PART, "store path has no dash behind its hash part"),
        (PART + ".a", "store path has no dash behind its hash part"),
        (PART + "-", "store path has an empty name"),
        (PART + "-" + "a" * 212, "store path has too long a name"),
        *(
            (f"{PART}-{name}", "store path has a name that is not allowed")
            for name in (".", "..", ".-x", "..-x", "a b", "a/b", "a\n", "é", "a\0")
        ),
    ],
)
def test_refused(base: str, problem: str) -> None:
    with pytest.raises(StorePathError) as caught:
        StorePath.parse(base)
    assert caught.value.problem == problem


@pytest.mark.parametrize(
    "text",
    [BASE, f"/nix/store//{BASE}", f"/nix/store/{BASE}/", f"/nix/store/{BASE}/bin", f"/gnu/{BASE}"],
)
def test_only_the_canonical_full_path(text: str) -> None:
    with pytest.raises(StorePathError):
        StorePath.parse_full(text)


def test_hash_part() -> None:
    assert is_hash_part(PART)
    assert not is_hash_part(PART + "0")
    assert not is_hash_part(PART + "\n")
