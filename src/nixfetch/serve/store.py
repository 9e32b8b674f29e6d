"""A store as a source: what a binary cache holds of it, made when it is asked for.

    nix-cache-info
    <hash part>.narinfo                     from the database; the NAR uncompressed
    <hash part>.ls                          from the files
    nar/<hash part>-<hash of the NAR>.nar   from the files

Valid paths only. NARs and listings are hashed as they are read: where the files are no longer
what the database says, the last bytes stay unsent, so that no reader takes them for whole.
"""

from __future__ import annotations

import hashlib
import re
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from nixfetch.errors import StoreError, facts
from nixfetch.formats import listing
from nixfetch.formats.cacheinfo import CacheInfo
from nixfetch.formats.nar import NarError, NarReader
from nixfetch.formats.nar.writer import write
from nixfetch.formats.narinfo import NarInfo
from nixfetch.serve import objects
from nixfetch.serve.objects import Object, held
from nixfetch.store.dump import dump

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nixfetch.formats.signing import SecretKey
    from nixfetch.store import LocalStore
    from nixfetch.store.database import Registration

PRIORITY = 30  # as other servers of stores say: nearer than cache.nixos.org with its 40
_NAME = re.compile(
    r"(?P<about>[0-9a-df-np-sv-z]{32})\.(?P<kind>narinfo|ls)|"
    r"nar/(?P<of>[0-9a-df-np-sv-z]{32})-(?P<hash>[0-9a-df-np-sv-z]{52})\.nar"
)


class ChangedPathError(StoreError):
    """What lies in the store is not what was registered."""


class StoreSource:
    """The valid paths of one store. Threads may share it.

    Args:
        store: where the paths are; it stays the caller's to close.
        key: signs each path that it has not signed yet; None: signatures are those registered.
    """

    def __init__(self, store: LocalStore, *, key: SecretKey | None = None) -> None:
        self._store = store
        self._key = key
        self._info = CacheInfo(want_mass_query=True, priority=PRIORITY).render()
        self._listing = threading.Lock()  # one at a time: they grow with the number of files

    @contextmanager
    def open(self, name: str) -> Iterator[Object | None]:
        yield self._find(name)

    def _find(self, name: str) -> Object | None:
        if name == objects.CACHE_INFO:
            return held(self._info, objects.CACHE_INFO_TYPE)
        match = _NAME.fullmatch(name)
        entry = self._entry(match["about"] or match["of"]) if match else None
        if match is None or entry is None:
            return None
        if match["kind"] == "narinfo":
            return held(self._narinfo(entry).render(), objects.NARINFO_TYPE)
        if match["kind"] == "ls":
            return self._list(entry)
        return self._nar(entry) if match["hash"] == entry.nar_hash.base32 else None

    def _entry(self, hash_part: str) -> Registration | None:
        path = self._store.by_hash_part(hash_part)
        entry = self._store.get(path) if path is not None else None
        # Ancient versions of Nix registered no size; a narinfo cannot do without.
        return entry if entry is not None and entry.nar_size else None

    def _narinfo(self, entry: Registration) -> NarInfo:
        info = NarInfo(
            path=entry.path,
            url=f"nar/{entry.path.hash_part}-{entry.nar_hash.base32}.nar",
            compression="none",
            file_hash=entry.nar_hash,
            file_size=entry.nar_size,
            nar_hash=entry.nar_hash,
            nar_size=entry.nar_size,
            references=entry.references,
            deriver=entry.deriver,
            signatures=entry.signatures,
            ca=entry.ca,
        )
        names = {signature.key_name for signature in info.signatures}
        if self._key is None or self._key.name in names:
            return info
        return replace(info, signatures=(*info.signatures, self._key.sign(info.fingerprint())))

    def _nar(self, entry: Registration) -> Object:
        def read(start: int, _stop: int) -> Iterator[bytes | memoryview]:
            return _skipping(start, self._intact(entry))

        return Object(
            size=entry.nar_size,
            media_type=objects.NAR_TYPE,
            read=read,
            tag=entry.nar_hash.base32,
            whole_tail=True,
        )

    def _list(self, entry: Registration) -> Object | None:
        reader = NarReader()
        with self._listing:
            events = (event for piece in self._intact(entry) for event in reader.feed(bytes(piece)))
            try:
                tree = listing.of_nar(events)
            except NarError:  # deeper than listings may be: old versions of Nix had no limit
                return None
            return held(listing.render(tree), objects.LISTING_TYPE)

    def _intact(self, entry: Registration) -> Iterator[bytes | memoryview]:
        """The NAR of `entry` in pieces, the last of them only when the whole is as registered."""
        digest = hashlib.sha256()
        size = 0
        last: bytes | memoryview = b""
        for piece in self._pieces(entry):
            digest.update(piece)
            size += len(piece)
            if size > entry.nar_size:
                break
            yield last
            last = piece
        if size != entry.nar_size or digest.digest() != entry.nar_hash.digest:
            raise ChangedPathError(
                "path is not what was registered",
                hint="`nixfetch verify` names all that is damaged",
                path=entry.path,
            )
        yield last

    def _pieces(self, entry: Registration) -> Iterator[bytes | memoryview]:
        pieces = write(dump(self._store.fd, entry.path.base.encode()))
        while True:
            with facts(path=entry.path):
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece


def _skipping(count: int, pieces: Iterator[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """`pieces` without their first `count` bytes."""
    for piece in pieces:
        if count < len(piece):
            yield piece[count:] if count else piece
        count = max(0, count - len(piece))
