"""`nix-cache-info`: what a binary cache says about itself."""

from __future__ import annotations

from dataclasses import dataclass

from nixfetch.errors import FormatError
from nixfetch.formats.storepath import STORE_DIR

MAX_SIZE = 64 * 1024  # bytes; real ones have less than 100
DEFAULT_PRIORITY = 50  # of a cache without the file; Nix's own servers are 30 and 40
_UNNAMED = 0  # what Nix takes when the file names none
_MAX_DIGITS = 9  # of a priority


class CacheInfoError(FormatError):
    """The bytes are not a usable nix-cache-info."""

    what = "nix-cache-info"


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """The defaults are what holds for a cache without this file."""

    store_dir: str = STORE_DIR
    want_mass_query: bool = False
    """Whether the cache likes to be asked for many paths that it may not have."""
    priority: int = DEFAULT_PRIORITY
    """The lower, the earlier."""

    @classmethod
    def parse(cls, raw: bytes) -> CacheInfo:
        """Read a nix-cache-info; unknown keys and lines without a colon are skipped, as Nix does.

        Raises:
            CacheInfoError: too large, not text, or a priority that is not a number.

        Source: nix, src/libstore/binary-cache-store.cc, `BinaryCacheStore::init`.
        """
        if len(raw) > MAX_SIZE:
            raise CacheInfoError("nix-cache-info is too large", bytes=len(raw), limit=MAX_SIZE)
        if raw.lstrip()[:1] == b"<":
            raise CacheInfoError(
                "this is HTML, not a nix-cache-info",
                hint="a proxy or a log-in page answers in place of the cache",
            )
        fields: dict[str, str] = {}
        for line in raw.decode("utf-8", "replace").splitlines():
            name, colon, value = line.partition(":")
            if colon:
                fields[name] = value.strip()
        return cls(
            store_dir=fields.get("StoreDir") or STORE_DIR,
            want_mass_query=fields.get("WantMassQuery") == "1",
            priority=_priority(fields.get("Priority", "")),
        )

    def render(self) -> bytes:
        """The file as Nix writes it."""
        mass_query = "WantMassQuery: 1\n" if self.want_mass_query else ""
        return f"StoreDir: {self.store_dir}\n{mass_query}Priority: {self.priority}\n".encode()


def _priority(text: str) -> int:
    if not text:
        return _UNNAMED
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > _MAX_DIGITS:
        raise CacheInfoError("priority is not a number", text=text[:80])
    return int(text)
