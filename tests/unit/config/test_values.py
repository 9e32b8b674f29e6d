from __future__ import annotations

import pytest

from nixfetch.config.errors import ConfigError
from nixfetch.config.values import (
    MAX_NUMBER,
    Boolean,
    Choice,
    Integer,
    Kind,
    Location,
    Text,
    Value,
    Words,
    check,
    expected,
    parse,
    split,
)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Boolean(), "true", True),
        (Boolean(), "yes", True),
        (Boolean(), "0", False),
        (Integer(), "007", 7),
        (Integer(), "+5", 5),
        (Integer(), "2K", 2048),
        (Integer(), "2m", 2 * 2**20),
        (Integer(), "1G", 2**30),
        (Integer(zero=None), "0", None),
        (Integer(zero=9), "0", 9),
        (Integer(minimum=-2), "-2", -2),
        (Words(), " a\tb \r\n c", ("a", "b", "c")),
        (Words(), "", ()),
        (Text(empty=True), "", ""),
        (Location(optional=True), "", None),
        (Location(), "/x", "/x"),
        (Choice(("a", "b")), "b", "b"),
    ],
)
def test_text_becomes_a_value(kind: Kind, text: str, value: Value) -> None:
    assert parse(kind, text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Boolean(), "TRUE"),
        (Boolean(), ""),
        (Integer(), ""),
        (Integer(), "K"),
        (Integer(), "2KB"),
        (Integer(), "-1"),
        (Integer(), "1 2"),
        (Integer(), "0x10"),
        (Integer(), "1T"),
        (Integer(), "٣"),
        (Integer(), "9" * 5000),
        (Integer(minimum=1), "0"),
        (Text(), ""),
        (Location(), ""),
        (Location(), "/a\0b"),
        (Choice(("a", "b")), "c"),
    ],
)
def test_other_text_is_refused_and_the_error_says_what_fits(kind: Kind, text: str) -> None:
    with pytest.raises(ConfigError, match="unusable value") as caught:
        parse(kind, text)
    assert caught.value.facts["expected"] == expected(kind)
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Integer(), True),
        (Integer(), 1.0),
        (Integer(), MAX_NUMBER + 1),
        (Boolean(), 1),
        (Text(), 1),
        (Words(), "a b"),
        (Words(), ["a", 1]),
    ],
)
def test_a_typed_value_must_have_the_type(kind: Kind, value: object) -> None:
    with pytest.raises(ConfigError):
        check(kind, value)


def test_lists_are_not_shown_in_errors() -> None:
    with pytest.raises(ConfigError) as caught:
        check(Words(), "https://user:secret@cache")
    assert "secret" not in str(caught.value)
    assert expected(Words()) == "a list of text"


def test_words_end_where_nix_ends_them() -> None:
    assert split("a\x0bb\u00a0c d") == ("a\x0bb\u00a0c", "d")
