"""Store paths: ``/nix/store/<hash part>-<name>``. Knows nothing of where a store lies on disk."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nixfetch.errors import FormatError

STORE_DIR = "/nix/store"
"""The logical store directory, whatever root a store lies under."""
HASH_LENGTH = 32  # base-32 digits; 20 bytes
MAX_NAME = 211  # bytes; Nix's limit: 255 less the hash part, a dash and ".drv.chroot.lock" or so
_DASH = HASH_LENGTH  # where the dash stands
# The reader of a closure parses 10^5 of these: one expression instead of three checks.
_BASE = re.compile(
    rf"[0-9a-df-np-sv-z]{{{HASH_LENGTH}}}-(?!\.\.?(?:-|\Z))[0-9A-Za-z+\-._?=]{{1,{MAX_NAME}}}\Z"
)
_HASH_PART = re.compile(rf"[0-9a-df-np-sv-z]{{{HASH_LENGTH}}}\Z")


class StorePathError(FormatError):
    """The text is not a store path."""


@dataclass(frozen=True, slots=True, order=True)
class StorePath:
    """One object of a store, by its name. Orders bytewise, as fingerprints need it."""

    base: str
    """``<hash part>-<name>``: 34 to 244 characters, all ASCII."""

    @classmethod
    def parse(cls, base: str) -> StorePath:
        """Read a base name such as ``00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60``.

        Raises:
            StorePathError: a bad hash part, no dash behind it, a name that is empty, longer than
                `MAX_NAME`, made of other characters, or whose first part is ``.`` or ``..``.

        Source: nix, src/libstore/path.cc, `checkName`; the dash as Nix checks it since 2.35.
        """
        if _BASE.match(base) is None:
            raise StorePathError(_why_not(base), text=base[:300])
        return cls(base)

    @classmethod
    def parse_full(cls, text: str) -> StorePath:
        """Read the canonical full path, ``/nix/store/<base name>`` and nothing else.

        Raises:
            StorePathError: another directory, a sub path, a doubled slash; or as `parse`.
        """
        if not text.startswith(STORE_DIR + "/"):
            raise StorePathError("not in the store directory", text=text[:300], store=STORE_DIR)
        return cls.parse(text[len(STORE_DIR) + 1 :])

    def __str__(self) -> str:
        return f"{STORE_DIR}/{self.base}"

    @property
    def hash_part(self) -> str:
        """The 32 base-32 digits that name the object in a cache."""
        return self.base[:HASH_LENGTH]

    @property
    def name(self) -> str:
        """What stands behind the hash part and its dash."""
        return self.base[_DASH + 1 :]

    @property
    def is_derivation(self) -> bool:
        """Whether it names a ``.drv`` file."""
        return self.base.endswith(".drv")


def is_hash_part(text: str) -> bool:
    """Whether `text` is 32 base-32 digits."""
    return _HASH_PART.match(text) is not None


def _why_not(base: str) -> str:
    if not is_hash_part(base[:HASH_LENGTH]):
        return "store path has no 32-digit hash part"
    if base[_DASH : _DASH + 1] != "-":
        return "store path has no dash behind its hash part"
    name = base[_DASH + 1 :]
    if not name:
        return "store path has an empty name"
    if len(name) > MAX_NAME:
        return "store path has too long a name"
    return "store path has a name that is not allowed"
