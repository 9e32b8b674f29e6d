"""The kinds of value that a setting can have. Knows no setting by name.

Text is read as Nix reads it: ``true``, ``yes`` and ``1`` are true; a number may end in
K, M, G or T, which are powers of 1024; a list is words between blanks.
Source: nix, src/libutil/configuration.cc, `BaseSetting::parse`; src/libutil/util.hh,
`string2IntWithUnitPrefix`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nixfetch.config.errors import ConfigError

Value = str | int | bool | tuple[str, ...] | None

MAX_NUMBER = 2**31 - 1  # fits every integer type that Nix gives these settings
_NUMBER = re.compile(r"([+-]?[0-9]{1,19})([KMGT]?)", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_BLANKS = re.compile(r"[ \t\r\n]+")  # what Nix splits at; str.split() would split at more
_TRUE = frozenset({"true", "yes", "1"})
_FALSE = frozenset({"false", "no", "0"})


@dataclass(frozen=True, slots=True)
class Text:
    """Any text; `empty` says whether it may be empty."""

    empty: bool = False


@dataclass(frozen=True, slots=True)
class Location:
    """A path; an empty one stands for none where `optional`."""

    optional: bool = False


@dataclass(frozen=True, slots=True)
class Boolean:
    """True or false."""


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number."""

    minimum: int = 0
    zero: int | None = 0
    """What 0 stands for, as in "0: no limit"."""
    maximum: int = MAX_NUMBER
    as_text: bool = False
    """It may be text with a unit where numbers have a type of their own."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Words:
    """A list of words without blanks."""


Kind = Text | Location | Boolean | Integer | Choice | Words


def split(text: str) -> tuple[str, ...]:
    """The words of `text`, as Nix's `tokenizeString`."""
    return tuple(word for word in _BLANKS.split(text) if word)


def parse(kind: Kind, text: str) -> Value:
    """Read `text` as a value of `kind`.

    Raises:
        ConfigError: it is none.
    """
    match kind:
        case Text() | Location() | Choice():
            return check(kind, text)
        case Boolean() if text in _TRUE | _FALSE:
            return text in _TRUE
        case Integer() if _NUMBER.fullmatch(text):
            return check(kind, _number(text))
        case Words():
            return split(text)
        case Boolean() | Integer():
            raise _unfit(kind, text)


def check(kind: Kind, value: object) -> Value:
    """Accept a value that has a type already, such as one from TOML.

    Raises:
        ConfigError: it is not of `kind`.
    """
    if isinstance(kind, Integer) and kind.as_text and isinstance(value, str):
        value = _number(value)
    match kind, value:
        case Text(empty=empty), str() if value or empty:
            return value
        case Location(optional=optional), str() if (value or optional) and "\0" not in value:
            return value or None
        case Boolean(), bool():
            return value
        case Integer() as limits, int() if not isinstance(value, bool):
            if limits.minimum <= value <= limits.maximum:
                return value or limits.zero
        case Choice(words=words), str() if value in words:
            return value
        case Words(), list() | tuple() if all(isinstance(word, str) for word in value):
            return tuple(str(word) for word in value)
        case _:
            pass
    raise _unfit(kind, value)


def expected(kind: Kind) -> str:
    """What a value of `kind` looks like, for people."""
    match kind:
        case Text():
            return "text"
        case Location():
            return "a path"
        case Boolean():
            return "true or false"
        case Integer(minimum=minimum, maximum=maximum, as_text=as_text):
            unit = ", with K, M, G or T behind it where that helps" if as_text else ""
            return f"a whole number from {minimum} to {maximum}{unit}"
        case Choice(words=words):
            return f"one of {', '.join(words)}"
        case Words():
            return "a list of text"


def _number(text: str) -> int | None:
    found = _NUMBER.fullmatch(text)
    return int(found[1]) * _UNITS[found[2].upper()] if found else None


def _unfit(kind: Kind, value: object) -> ConfigError:
    # Lists hold URLs, and URLs hold passwords.
    shown = {} if isinstance(kind, Words) else {"value": repr(value)}
    return ConfigError("unusable value", expected=expected(kind), **shown)
