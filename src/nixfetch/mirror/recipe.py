"""How paths are copied: as they are, or changed on the way. A value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nixfetch.streams.seekable import LEVEL

if TYPE_CHECKING:
    from nixfetch.formats.narinfo import NarInfo
    from nixfetch.formats.signing import SecretKey

HASHES = frozenset({"sha256", "sha512", "sha1"})
"""Of files, that can be checked here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The defaults keep every byte."""

    verify_nar: bool = False
    """Decode each NAR on the way, and check what was signed."""
    recompress: bool = False
    """Compress each NAR with zstd, so that parts of it can be read."""
    level: int = LEVEL
    """Of that compression."""
    listing: bool = False
    """Write a ``.ls`` beside each narinfo."""
    key: SecretKey | None = None
    """Signs each narinfo, besides those who did."""

    @property
    def takes_cores(self) -> bool:
        """Whether NARs are decoded, of which no more go at a time than there are cores."""
        return self.verify_nar or self.recompress or self.listing

    def decodes(self, info: NarInfo) -> bool:
        """Whether the NAR of `info` is looked into on the way."""
        # What says nothing of its file is checked by what was signed.
        known = info.file_hash is not None and info.file_hash.algorithm in HASHES
        return self.takes_cores or not known
