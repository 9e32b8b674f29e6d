"""What is remembered of caches between runs, where there is a place for it: `memo`, `partial`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nixfetch.cache import partial

if TYPE_CHECKING:
    from nixfetch.cache.memo import Memo, Remembered
    from nixfetch.cache.partial import Partial, Partials
    from nixfetch.formats.narinfo import NarInfo

LARGE_FILE = 4 * 1024 * 1024  # bytes of a compressed NAR that are worth keeping
LARGE_NAR = 16 * 1024 * 1024  # bytes of a NAR, where nobody says how large it is compressed


class Memory:
    """Memo and partial downloads; either may be missing. Safe to share among threads."""

    def __init__(
        self,
        memo: Memo | None = None,
        partials: Partials | None = None,
        *,
        refresh: bool = False,
    ) -> None:
        """Use what there is.

        Args:
            memo: what caches said lately; it becomes this object's to close.
            partials: interrupted downloads.
            refresh: write to the memo, and believe nothing that it had before.
        """
        self._memo = memo
        self._partials = partials
        self._refresh = refresh

    def close(self) -> None:
        """Write what is gathered."""
        if self._memo is not None:
            self._memo.close()

    def cache_info(self, cache: str) -> bytes | None:
        """The nix-cache-info of `cache`."""
        return None if self._memo is None or self._refresh else self._memo.get_info(cache)

    def keep_cache_info(self, cache: str, raw: bytes) -> None:
        """Remember it."""
        if self._memo is not None:
            self._memo.put_info(cache, raw)

    def narinfo(self, cache: str, hash_part: str) -> Remembered | None:
        """What `cache` said of a path."""
        return None if self._memo is None or self._refresh else self._memo.get(cache, hash_part)

    def keep_narinfo(self, cache: str, hash_part: str, raw: bytes | None) -> None:
        """Remember it; None: that it has none."""
        if self._memo is not None:
            self._memo.put(cache, hash_part, raw)

    def forget(self, cache: str, hash_part: str) -> bool:
        """Forget it; whether there was anything that was believed."""
        return self._memo is not None and self._memo.forget(cache, hash_part) and not self._refresh

    def claim(self, cache: str, info: NarInfo) -> Partial | None:
        """Where the NAR of `info` is kept while it comes, if it is worth it."""
        large = (
            info.nar_size >= LARGE_NAR if info.file_size is None else info.file_size >= LARGE_FILE
        )
        if self._partials is None or not large:
            return None
        return self._partials.claim(partial.key(info.file_hash, cache, info.url))
