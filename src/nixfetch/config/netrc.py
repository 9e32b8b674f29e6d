r"""Reads netrc: who we are, to which host. Knows the grammar; opens no file.

    file    ::= entry*
    entry   ::= ("machine" NAME | "default") part*
    part    ::= ("login" | "password" | "account") VALUE  |  macro  |  unknown word
    macro   ::= "macdef" NAME, and all lines up to an empty one
    VALUE   ::= characters but blanks  |  '"' ([^"\] | \character)* '"'
    comment ::= "#" to the end of the line, but where a VALUE is due

Blanks are all characters up to the space, and lines mean nothing but to comments, macros and
quotes, which end on their line. In quotes ``\n``, ``\r`` and ``\t`` are what they are in C, and a
backslash takes the meaning from any other character; outside of them it is a character. Keywords
are read in any case, and never in quotes. The last value of a kind counts.

The file is curl's, through which Nix reads it, and this reads it as curl 8 does. But for these:
an open quote is a mistake and not the end of the file; ``default`` counts for hosts that no
``machine`` names, wherever it stands; ``macdef`` may stand behind a login.

Source: curl, lib/netrc.c; the manual page netrc(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nixfetch.config.errors import ConfigError
from nixfetch.transport.credentials import Basic

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLANKS = "".join(map(chr, range(0x21)))
_BARE = re.compile(r"[^\x00-\x20]+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_MEANT = {"n": "\n", "r": "\r", "t": "\t"}
_BYTE_ORDER_MARK = "\ufeff"


class NetrcError(ConfigError):
    """A netrc file is malformed. The facts never hold a word of it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is said of one host."""

    machine: str | None
    """Its name, or an address without brackets; None: all that have no entry."""
    login: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Netrc:
    """The entries of a file, in order."""

    entries: tuple[Entry, ...] = ()
    passed_over: tuple[int, ...] = ()
    """Lines with a word that means nothing, as behind a password with a blank in it."""

    @classmethod
    def parse(cls, text: str) -> Netrc:
        """Read a file.

        Raises:
            NetrcError: it is malformed; carries `line`.
        """
        parser = _Parser(text.removeprefix(_BYTE_ORDER_MARK))
        entries = tuple(parser.entries())
        return cls(entries, tuple(dict.fromkeys(parser.passed_over)))

    def find(self, host: str, user: str | None = None) -> Basic | None:
        """Who we are to `host`; None where nothing is said.

        Args:
            host: its name or address, as in a URL, without brackets and port; any case.
            user: the login to find the password of. Entries without a login fit any.
        """
        wanted = host.lower()
        own = [entry for entry in self.entries if (entry.machine or "").lower() == wanted]
        rest = [entry for entry in self.entries if entry.machine is None]
        for entry in own + rest:
            if entry.login is None and entry.password is None:
                continue
            if user is None or entry.login in {None, user}:
                login = entry.login if user is None else user
                return Basic(login or "", entry.password or "")
        return None


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    line: int
    quoted: bool

    @property
    def keyword(self) -> str:
        """What it may be as a keyword."""
        return "" if self.quoted else self.text.lower()


class _Parser:
    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")
        self._line = 0  # lines begun
        self._rest = ""
        self.passed_over: list[int] = []

    def entries(self) -> Iterator[Entry]:
        machine: str | None = None
        parts: dict[str, str] = {}
        begun = False
        while (word := self._word()) is not None:
            match word.keyword:
                case "machine" | "default" as kind:
                    if begun:
                        yield Entry(machine, **parts)
                    begun, parts = True, {}
                    machine = self._value(word) if kind == "machine" else None
                case "login" | "password" as part:
                    parts[part] = self._value(word)
                case "account":
                    self._value(word)
                case "macdef":
                    self._value(word)
                    self._skip_macro()
                case _:
                    self.passed_over.append(word.line)
        if begun:
            yield Entry(machine, **parts)

    def _value(self, of: _Word) -> str:
        word = self._word(is_value=True)
        if word is None:
            raise NetrcError("netrc ends where a value is due", keyword=of.keyword, line=of.line)
        if any("\ud800" <= character <= "\udfff" for character in word.text):
            raise NetrcError("netrc has a value that is not UTF-8", line=word.line)
        return word.text

    def _word(self, *, is_value: bool = False) -> _Word | None:
        while True:
            self._rest = self._rest.lstrip(_BLANKS)
            if self._rest and (is_value or self._rest[0] != "#"):
                return self._cut()
            if not self._advance():
                return None
            if self._rest.lstrip(_BLANKS).startswith("#"):
                self._rest = ""

    def _cut(self) -> _Word:
        """The word that the rest of the line begins with."""
        quoted = self._rest[0] == '"'
        found = (_QUOTED if quoted else _BARE).match(self._rest)
        if found is None:
            hint = 'within quotes, \\" is a quote and \\\\ a backslash'
            raise NetrcError("netrc has a quote that is not closed", line=self._line, hint=hint)
        self._rest = self._rest[found.end() :]
        if quoted and self._rest.lstrip(_BLANKS) == self._rest != "":
            raise NetrcError("netrc has text right behind a quote", line=self._line)
        text = _ESCAPE.sub(_unescaped, found[1]) if quoted else found[0]
        return _Word(text, self._line, quoted)

    def _advance(self) -> bool:
        if self._line == len(self._lines):
            return False
        self._rest = self._lines[self._line]
        self._line += 1
        return True

    def _skip_macro(self) -> None:
        while self._advance() and self._rest.strip(_BLANKS):
            pass
        self._rest = ""


def _unescaped(found: re.Match[str]) -> str:
    return _MEANT.get(found[1], found[1])
