r"""Reads ``nix.conf`` as Nix reads it. Knows the grammar and the names; decides no precedence.

    file    ::= (line? comment? "\n")*
    line    ::= NAME "=" WORD*  |  "include" FILE  |  "!include" FILE
    comment ::= "#" anything

Blanks are space, tab, CR and LF; the ``=`` is a word of its own; values have their words joined by
one space; there are no quotes and no continuation lines. An included file takes the place of its
line, and its name is relative to the file that names it. A later line wins over an earlier one,
and ``extra-NAME`` adds to what NAME is by then, the default included. Unknown names are ignored.
Unlike Nix: includes are limited; numbers may have a unit, which Nix 2.8 refuses; ``netrc-file``
may be empty, which Nix 2.34 refuses.

Source: nix, src/libutil/configuration.cc, `parseConfigFiles` and `Config::set`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nixfetch.config import values
from nixfetch.config.errors import ConfigError, UnreadableFileError
from nixfetch.config.settings import SETTINGS, Assignment, Setting
from nixfetch.errors import facts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nixfetch.config.files import Read

MAX_INCLUDE_DEPTH = 16  # levels; people write one or two
MAX_INCLUDES = 256  # files for one source; includes can multiply from level to level


@dataclass(frozen=True, slots=True)
class Line:
    """One assignment, as written."""

    name: str
    value: str
    """Its words, one space between."""
    origin: str
    """``file:line``."""


class NixConfReader:
    """Reads sources one after the other and remembers what it passed over."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._includes = 0
        self.skipped: list[str] = []
        """A sentence for each file that is there and may not be read; Nix says nothing of them."""

    def file(self, path: Path) -> list[Assignment]:
        """What the file at `path` sets; nothing where there is none.

        Raises:
            ConfigError: a line or a value is malformed, or an included file is missing.
        """
        content = self._content(path)
        return [] if content is None else self.text(content, str(path))

    def text(self, text: str, name: str) -> list[Assignment]:
        """What `text` sets.

        Args:
            text: lines, such as those in NIX_CONFIG.
            name: what to call it in origins; includes are relative to the directory of that name.

        Raises:
            ConfigError: as for `file`.
        """
        self._includes = 0
        found = (_assignment(line) for line in self._lines(text, (name,)))
        return [assignment for assignment in found if assignment]

    def _content(self, path: Path) -> str | None:
        try:
            content = self._read(path)
        except UnreadableFileError as error:
            self.skipped.append(f"{path}: {error.facts.get('reason', error.problem)}")
            return None
        # What is not UTF-8 stands in comments, as a rule.
        return None if content is None else content.decode("utf-8", "replace")

    def _lines(self, text: str, chain: tuple[str, ...]) -> Iterator[Line]:
        for number, line in enumerate(text.split("\n"), start=1):
            origin = f"{chain[-1]}:{number}"
            match values.split(line.partition("#")[0]):
                case ():
                    pass
                case ("include" | "!include" as word, target):
                    yield from self._include(target, chain, origin, optional=word[0] == "!")
                case ("include" | "!include", *_):
                    raise ConfigError("include needs one file", origin=origin)
                case (name, "=", *words):
                    yield Line(name, " ".join(words), origin)
                case _:
                    # The line itself may hold a token, and is not shown.
                    raise ConfigError("illegal configuration line", origin=origin)

    def _include(
        self, target: str, chain: tuple[str, ...], origin: str, *, optional: bool
    ) -> Iterator[Line]:
        if "\0" in target:
            raise ConfigError("illegal configuration line", origin=origin)
        path = os.path.normpath(Path(chain[-1]).parent / target)
        self._includes += 1
        if path in chain:
            raise ConfigError("file includes itself", origin=origin, file=path)
        if len(chain) > MAX_INCLUDE_DEPTH or self._includes > MAX_INCLUDES:
            raise ConfigError("too many includes", origin=origin, file=path)
        passed_over = len(self.skipped)
        content = self._content(Path(path))
        if content is not None:
            yield from self._lines(content, (*chain, path))
        elif not optional and len(self.skipped) == passed_over:
            raise ConfigError("included file is missing", origin=origin, file=path)


def _assignment(line: Line) -> Assignment | None:
    setting = _named(line.name)
    append = False
    if setting is None and line.name.startswith("extra-"):
        append = True
        setting = _named(line.name.removeprefix("extra-"))
        if setting and not isinstance(setting.kind, values.Words):
            return None
    if setting is None:
        return None
    with facts(origin=line.origin, setting=line.name):
        value = values.parse(setting.kind, line.value)
        if isinstance(setting.kind, values.Location) and value and not line.value.startswith("/"):
            raise ConfigError("path is not absolute", value=line.value)
        if setting.nix_unit != 1 and isinstance(value, int):
            value = values.check(setting.kind, value * setting.nix_unit)
    return Assignment(
        setting=setting, value=value, origin=line.origin, append=append, from_nix=True
    )


def _named(name: str) -> Setting | None:
    return next((setting for setting in SETTINGS if name in setting.nix), None)
