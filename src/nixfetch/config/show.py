"""Writes a `Config` out for people and programs, without secrets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from nixfetch.config.cacheurl import CacheUrl
from nixfetch.config.settings import FROM, SETTINGS, TRUSTED_KEYS, Setting

if TYPE_CHECKING:
    from nixfetch.config.model import Config
    from nixfetch.config.values import Value

MAX_PUBLIC_KEY = 44  # characters; 32 bytes in base 64, where a secret key has 64 bytes


def show(config: Config, *, origin: bool = False, as_json: bool = False) -> str:
    """The settings, sorted by name.

    Args:
        config: what to show.
        origin: whether to say where each value came from.
        as_json: one document, ``{"NAME": {"value": …, "origin": …}}`` as Nix has it, where null is
            "no limit" or "none"; else lines ``NAME = VALUE``, with origins as comments.

    Returns:
        Text that ends in a newline.
    """
    shown = {setting.name: setting for setting in SETTINGS if not setting.only_flag}
    table: dict[str, dict[str, object]] = {}
    for name, setting in sorted(shown.items()):
        table[name] = {"value": _public(config, setting)}
        if origin:
            table[name]["origin"] = config.origins.get(setting.field, "")
    if as_json:
        return json.dumps(table, indent=2) + "\n"
    return "".join(_line(name, entry) for name, entry in table.items())


def _public(config: Config, setting: Setting) -> Value:
    value: Value = getattr(config, setting.field)
    if setting is FROM:
        return tuple(str(CacheUrl.parse(url)) for url in config.substituters)
    if setting is TRUSTED_KEYS:
        return tuple(map(_public_key, config.trusted_keys))
    return value


def _public_key(text: str) -> str:
    """`text`, but for a secret key that somebody took for a public one."""
    name, _, key = text.partition(":")
    return text if len(key) <= MAX_PUBLIC_KEY else f"{name}:… (too long for a public key)"


def _line(name: str, entry: dict[str, object]) -> str:
    line = f"{name} = {_text(entry['value'])}".rstrip()
    return f"{line}  # {entry['origin']}\n" if "origin" in entry else f"{line}\n"


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case tuple():
            return " ".join(value)
        case _:
            return str(value)
