"""What is known of one store path, from a cache or a store. Knows not how it is printed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nixfetch.errors import TrustError
    from nixfetch.formats.contentaddress import ContentAddress
    from nixfetch.formats.hashes import Hash
    from nixfetch.formats.narinfo import NarInfo
    from nixfetch.formats.signing import Signature
    from nixfetch.formats.storepath import StorePath
    from nixfetch.store.database import Registration


@dataclass(frozen=True, slots=True)
class Download:
    """How a cache hands out the NAR. No signature covers it."""

    url: str
    """As the narinfo has it, relative to the cache as a rule."""
    compression: str
    hash: Hash | None
    size: int | None
    """Bytes, compressed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathInfo:
    """One store path: a claim where it comes from a cache, a fact where from a store."""

    path: StorePath
    nar_hash: Hash
    nar_size: int
    """Bytes, uncompressed."""
    references: tuple[StorePath, ...]
    """Ascending; may hold `path` itself."""
    signatures: tuple[Signature, ...]
    """Ascending by name and bytes, each once."""
    deriver: StorePath | None = None
    ca: ContentAddress | None = None
    download: Download | None = None
    """None from a store."""
    registered: int | None = None
    """Seconds since 1970; None from a cache."""
    ultimate: bool = False
    """Whether it was built on this machine."""
    doubt: TrustError | None = None
    """Why it would not be fetched; None when it would, and from a store."""

    @classmethod
    def of_narinfo(cls, info: NarInfo, *, doubt: TrustError | None = None) -> PathInfo:
        """Take over what a cache says; its `raw` text is not kept."""
        return cls(
            path=info.path,
            nar_hash=info.nar_hash,
            nar_size=info.nar_size,
            references=info.references,
            signatures=tuple(sorted(set(info.signatures))),
            deriver=info.deriver,
            ca=info.ca,
            download=Download(info.url, info.compression, info.file_hash, info.file_size),
            doubt=doubt,
        )

    @classmethod
    def of_registration(cls, entry: Registration) -> PathInfo:
        """Take over what a store's database holds."""
        return cls(
            path=entry.path,
            nar_hash=entry.nar_hash,
            nar_size=entry.nar_size,
            references=entry.references,
            signatures=tuple(sorted(set(entry.signatures))),
            deriver=entry.deriver,
            ca=entry.ca,
            registered=entry.registered or None,
            ultimate=entry.ultimate,
        )
