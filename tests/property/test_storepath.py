"""Store paths against a reference that checks one thing at a time."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from nixfetch.formats.base32 import ALPHABET
from nixfetch.formats.storepath import StorePath, StorePathError, is_hash_part
from property.strategies import NAME_CHARACTERS, names, store_paths

PART = "00bgd045z0d4icpbc2yyz4gx48ak44la"


def slow(base: str) -> bool:
    """Nix's `checkName` and what stands before it, one rule a line."""
    part, dash, name = base[:32], base[32:33], base[33:]
    return (
        len(part) == 32
        and all(digit in ALPHABET for digit in part)
        and dash == "-"
        and 1 <= len(name) <= 211
        and all(character in NAME_CHARACTERS for character in name)
        and name.split("-")[0] not in {".", ".."}
    )


def accepted(base: str) -> bool:
    try:
        path = StorePath.parse(base)
    except StorePathError:
        return False
    assert path.base == base
    assert StorePath.parse_full(str(path)) == path
    assert base == f"{path.hash_part}-{path.name}"
    return True


near = st.one_of(
    st.text(ALPHABET + "eotuA", min_size=30, max_size=34),
    st.builds(lambda part: part[:32], st.just(PART)),
)
parts = st.builds(
    lambda *texts: "".join(texts),
    near,
    st.sampled_from(["-", ".", "", "--", "\n"]),
    st.one_of(
        st.text(NAME_CHARACTERS + "/~ é\n", max_size=12),
        st.text(".-", max_size=5),
        st.builds("a".__mul__, st.integers(209, 213)),
    ),
)


@given(base=parts | st.text(max_size=40))
@example(base=f"{PART}-a\n")
@example(base=f"{PART}-.")
@example(base=f"{PART}-..-x")
@example(base=f"{PART}-.foo")
@example(base=f"{PART}-" + "a" * 211)
@example(base=f"{PART}-" + "a" * 212)
def test_accepts_what_the_rules_accept(base: str) -> None:
    assert accepted(base) == slow(base)
    assert is_hash_part(base[:32]) == (len(base) >= 32 and set(base[:32]) <= set(ALPHABET))


@given(part=st.text(ALPHABET, min_size=32, max_size=32), name=names)
def test_good_ones_are_accepted(part: str, name: str) -> None:
    assert accepted(f"{part}-{name}")


@given(some=st.lists(store_paths))
def test_they_order_as_their_text_does(some: list[StorePath]) -> None:
    assert [str(path) for path in sorted(some)] == sorted(map(str, some))
