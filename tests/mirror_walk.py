"""Looks at a mirror in a directory with eyes of its own: is every narinfo's closure there?

Made without what is tested: narinfos are read as lines, hashes are those of `sha256`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nixfetch.formats import base32

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Walked:
    """What a mirror has, and what is wrong with it."""

    paths: frozenset[str]
    """Base names."""
    sins: tuple[str, ...]


def walk(directory: Path) -> Walked:
    """Read every narinfo below `directory`, and every file that one names."""

    def read(name: str) -> bytes | None:
        file = directory / name
        return file.read_bytes() if file.is_file() else None

    return walk_objects([file.name for file in directory.glob("*.narinfo")], read)


def walk_objects(names: list[str], read: Callable[[str], bytes | None]) -> Walked:
    """The same of objects anywhere: names of narinfos, and how to read an object."""
    claims: dict[str, dict[str, str]] = {}
    sins = []
    for name in names:
        text = (read(name) or b"").decode()
        fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
        if not text.endswith("\n") or "StorePath" not in fields:
            sins.append(f"{name} is no narinfo")
            continue
        claims[fields["StorePath"].rpartition("/")[2]] = fields
    for base, fields in claims.items():
        file = read(fields["URL"])
        if file is None:
            sins.append(f"{base} has no file")
        elif len(file) != int(fields["FileSize"]) or digest(file) != fields["FileHash"]:
            sins.append(f"{base} has another file")
        sins += [
            f"{base} refers to {reference}, which is not there"
            for reference in fields.get("References", "").split()
            if reference not in claims
        ]
    return Walked(frozenset(claims), tuple(sins))


def digest(data: bytes) -> str:
    """The hash of `data` as narinfos have it."""
    return f"sha256:{base32.encode(hashlib.sha256(data).digest())}"
