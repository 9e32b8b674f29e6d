"""Reads our own files of settings, which are TOML. Decides no precedence.

Strict: an unknown key or a value of another type is a mistake that its author wants to hear of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nixfetch.config import values
from nixfetch.config.errors import ConfigError
from nixfetch.config.settings import SETTINGS, Assignment, Setting
from nixfetch.errors import facts

if TYPE_CHECKING:
    from pathlib import Path


def parse(content: bytes, path: Path, home: Path | None) -> list[Assignment]:
    """What a file sets; additions come after what they add to.

    Args:
        content: the file.
        path: its name, for origins.
        home: what ``~/`` stands for in paths.

    Raises:
        ConfigError: the file is no TOML, or has an unknown key or an unfit value.
    """
    with facts(origin=path):
        table = _table(content)
        found = [_assignment(key, value, str(path), home) for key, value in table.items()]
    return sorted(found, key=lambda assignment: assignment.append)


def _table(content: bytes) -> dict[str, object]:
    import tomllib

    try:
        return tomllib.loads(content.decode())
    # Numbers of thousands of digits are a bare ValueError, deep nesting is a RecursionError.
    except (ValueError, RecursionError) as error:
        raise ConfigError("malformed TOML", reason=str(error)) from error


def _assignment(key: str, value: object, origin: str, home: Path | None) -> Assignment:
    setting, append = _named(key)
    with facts(setting=key):
        checked = values.check(setting.kind, value)
        if isinstance(setting.kind, values.Location) and isinstance(checked, str):
            checked = _anchored(checked, home)
    return Assignment(setting=setting, value=checked, origin=origin, append=append)


def _anchored(path: str, home: Path | None) -> str:
    if path.startswith("~/") and home:
        return str(home / path[2:])
    if not path.startswith("/"):
        raise ConfigError("path is not absolute", value=path)
    return path


def _keys() -> dict[str, tuple[Setting, bool]]:
    ours = [setting for setting in SETTINGS if not setting.only_flag]
    lists = [setting for setting in ours if isinstance(setting.kind, values.Words)]
    plain = {setting.name: (setting, False) for setting in ours}
    return plain | {f"extra-{setting.name}": (setting, True) for setting in lists}


def _named(key: str) -> tuple[Setting, bool]:
    keys = _keys()
    if key not in keys:
        meant = _meant(key)
        hint = f"did you mean {meant}?" if meant else f"known keys: {', '.join(sorted(keys))}"
        raise ConfigError("unknown key", setting=key, hint=hint)
    return keys[key]


def _meant(key: str) -> str | None:
    import difflib

    key = key.replace("_", "-").lower()
    ours = {name: name for name in _keys()}
    nixs = {nix: setting.name for setting in SETTINGS for nix in setting.nix}
    extra = {f"extra-{nix}": f"extra-{name}" for nix, name in nixs.items()}
    extra = {nix: name for nix, name in extra.items() if name in ours}
    names = extra | nixs | ours
    close = difflib.get_close_matches(key, names, n=1)
    return names[close[0]] if close else None
