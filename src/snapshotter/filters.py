r"""Containerd's filter language: which snapshots a caller wants to see.

    selectors ::= selector ("," selector)*            all of them must hold
    selector  ::= fieldpath (operator value)?         without operator: the field is there
    fieldpath ::= field ("." field)*
    field     ::= quoted | [A-Za-z0-9_]+
    operator  ::= "==" | "!=" | "~="                  ~= searches for a regular expression
    value     ::= quoted | [^\s,]+                    printable, but for the first character
    quoted    ::= a Go string in double quotes; after ~= also in /…/ or |…|

Space before a field, an operator or a value is skipped. Of several filters one must hold; no
filter is all. A snapshot has the fields ``name``, ``parent``, ``kind`` and ``labels.KEY``;
``labels."a.b"`` and ``labels.a.b`` are the same. What is not there counts as empty for != and ~=.
Regular expressions are Python's where they differ from Go's; a malformed one is an error here,
where containerd finds nothing.

Source: containerd, pkg/filters and core/snapshots/storage/bolt.go, `adaptSnapshot`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from snapshotter.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from snapshotter.lifecycle import Info

MAX_FILTER = 16_384  # characters; a label's key and value are at most 4096 bytes

_OPERATORS = ("==", "!=", "~=")
_SPACE = re.compile(r"\s*")
_FIELD = re.compile(r"[A-Za-z0-9_]+")
_OPERATOR = re.compile(r"[=!~]+")
_BARE = re.compile(r"[^\s,]+")
_ESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92}
_DIGITS = {"x": 2, "u": 4, "U": 8}
_QUOTED = '"'
_QUOTED_PATTERN = '"/|'
_MAX_BYTE = 0xFF  # the largest octal escape
_SURROGATES = range(0xD800, 0xE000)
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what Go makes of half a character
_BEYOND = 0x110000  # no character from here on


class FilterError(InvalidArgumentError):
    """A filter is malformed. Carries `filter` and `offset`, in characters."""


@dataclass(frozen=True)  # no slots: the pattern is compiled once, when it is first used
class Selector:
    """One condition."""

    path: tuple[str, ...]
    operator: str = ""
    """Empty: the field has to be there."""
    value: str = ""

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(self.value)

    def holds(self, info: Info) -> bool:
        """Whether `info` fulfils it."""
        found = _field(info, self.path)
        match self.operator:
            case "":
                return found is not None
            case "==":
                return found == self.value
            case "!=":
                return (found or "") != self.value
            case _:
                return self._pattern.search(found or "") is not None


@dataclass(frozen=True, slots=True)
class Filter:
    """Alternatives, each of which is conditions that all have to hold."""

    alternatives: tuple[tuple[Selector, ...], ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Filter:
        """One filter of several texts.

        Raises:
            FilterError: one is malformed.
        """
        alternatives = tuple(_Parser(text).parse() for text in texts)
        return cls(() if () in alternatives else alternatives)

    @property
    def known(self) -> dict[str, str]:
        """What all that is wanted has, to look at fewer: as `Metastore.walk` takes it."""
        if len(self.alternatives) != 1:
            return {}
        equal = [selector for selector in self.alternatives[0] if selector.operator == "=="]
        return {
            "label " + ".".join(key) if key else field: selector.value
            for selector in equal
            for field, *key in (selector.path,)
            if (field in ("name", "parent") and not key) or (field == "labels" and key)
        }

    def holds(self, info: Info) -> bool:
        """Whether `info` is wanted."""
        return not self.alternatives or any(
            all(selector.holds(info) for selector in selectors) for selectors in self.alternatives
        )


ALL = Filter()


def _field(info: Info, path: tuple[str, ...]) -> str | None:
    match path:
        case ("name", *_):
            return info.name
        case ("parent", *_):
            return info.parent
        case ("kind", *_):
            return info.kind.word
        case ("labels", *key):
            return info.labels.get(".".join(key))
        case _:
            return None


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        if len(text) > MAX_FILTER:
            raise FilterError("filter is too long", size=len(text), limit=MAX_FILTER)

    def parse(self) -> tuple[Selector, ...]:
        """The conditions; none for an empty text."""
        if not self._text:
            return ()
        if "\0" in self._text:
            self._fail("a filter holds no NUL")
        selectors = [self._selector()]
        while self._take(","):
            selectors.append(self._selector())
        if self._at < len(self._text):
            self._fail("expected a comma or the end of the filter")
        return tuple(selectors)

    def _selector(self) -> Selector:
        path = [self._name()]
        while self._take("."):
            path.append(self._name())
        if self._text[self._at : self._at + 1] in ("", ","):
            return Selector(tuple(path))
        operator = self._match(_OPERATOR)
        if operator not in _OPERATORS:
            raise self._error("expected one of == != ~=")
        start = self._at
        selector = Selector(tuple(path), operator, self._value(operator))
        if operator == "~=":
            self._check_pattern(selector.value, start)
        return selector

    def _check_pattern(self, pattern: str, start: int) -> None:
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            self._at = start
            raise self._error("regular expression is malformed") from error

    def _name(self) -> str:
        if self._first() == _QUOTED:
            return self._quoted()
        return self._match(_FIELD) or self._fail("expected a field")

    def _value(self, operator: str) -> str:
        first = self._first()
        if first and first in (_QUOTED_PATTERN if operator == "~=" else _QUOTED):
            return self._quoted()
        value = self._match(_BARE)
        if not value or value[0] in _QUOTED_PATTERN + ".=!~" or not value[1:].isprintable():
            self._fail("expected a value")
        return value

    def _quoted(self) -> str:
        quote = self._text[self._at]
        self._at += 1
        # Escapes of bytes make characters only together. What is no UTF-8 is equal to nothing.
        parts: list[bytes] = []
        while (character := self._next()) != quote:
            if character == "\n":
                self._fail("a quoted string ends with its line")
            parts.append(self._escape(quote) if character == "\\" else character.encode())
        return b"".join(parts).decode(errors="surrogateescape")

    def _escape(self, quote: str) -> bytes:
        kind = self._next()
        if kind == quote:
            return kind.encode()
        if kind in _ESCAPES:
            return bytes([_ESCAPES[kind]])
        if kind in _DIGITS:
            code = self._number(_DIGITS[kind], 16)
            return bytes([code]) if kind == "x" else self._character(code)
        if kind in "01234567":
            self._at -= 1
            code = self._number(3, 8)
            return bytes([code]) if code <= _MAX_BYTE else self._fail("no such byte").encode()
        self._fail("no such escape")
        return b""

    def _character(self, code: int) -> bytes:
        if code >= _BEYOND:
            self._fail("no such character")
        return (_REPLACEMENT if code in _SURROGATES else chr(code)).encode()

    def _number(self, digits: int, base: int) -> int:
        text = self._text[self._at : self._at + digits]
        legal = "0123456789abcdefABCDEF" if base > 10 else "01234567"  # noqa: PLR2004 - digits beyond 9
        if len(text) < digits or any(character not in legal for character in text):
            self._fail("escape is cut short")
        self._at += digits
        return int(text, base)

    def _next(self) -> str:
        if self._at >= len(self._text):
            self._fail("quoted string has no end")
        self._at += 1
        return self._text[self._at - 1]

    def _first(self) -> str:
        """The next character that is no space; empty at the end."""
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at
        return self._text[self._at : self._at + 1]

    def _take(self, character: str) -> bool:
        """Whether `character` comes next, without space before it; it is consumed."""
        found = self._text.startswith(character, self._at)
        self._at += found
        return found

    def _match(self, pattern: re.Pattern[str]) -> str:
        self._first()
        found = pattern.match(self._text, self._at)
        if found is None:
            return ""
        self._at = found.end()
        return found.group()

    def _fail(self, problem: str) -> str:
        raise self._error(problem)

    def _error(self, problem: str) -> FilterError:
        return FilterError(problem, filter=ascii(self._text[:200]), offset=self._at)
