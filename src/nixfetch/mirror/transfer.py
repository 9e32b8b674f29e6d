"""One path: its NAR from a cache into the mirror, checked on the way.

    file of the cache ─┬─> FileSize, FileHash
                       ├─> the mirror, as it is
                       └─> decoded ─┬─> NarSize, NarHash, and the listing      (where wanted)
                                    └─> compressed anew ─> the mirror          (in its place)

Its narinfo comes later, when all that it refers to is there; see `run`.
"""

from __future__ import annotations

import hashlib
import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nixfetch.cache.client import HEALABLE
from nixfetch.cache.download import NarGoneError
from nixfetch.errors import TransportError, facts
from nixfetch.formats import listing
from nixfetch.formats.hashes import Hash
from nixfetch.mirror import naming
from nixfetch.mirror.inspection import Inspection
from nixfetch.mirror.recipe import HASHES
from nixfetch.streams.seekable import SeekableCompressor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nixfetch.cache.download import Arriving
    from nixfetch.formats.narinfo import NarInfo
    from nixfetch.mirror.destination import Destination
    from nixfetch.mirror.recipe import Recipe
    from nixfetch.mirror.source import Offer, Sources

_log = logging.getLogger(__name__)
_SLACK = 64 * 1024  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """A path whose NAR is in the mirror, and whose narinfo is not yet."""

    offer: Offer
    info: NarInfo
    """As the mirror will have it."""
    text: bytes
    """Of its narinfo."""
    sent: int
    """Bytes that were written; 0 where its NAR was there already."""
    attempts: int
    """Caches whose NAR was tried."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told of a transfer, and may stop it by raising."""

    downloaded: Callable[[int], None]
    """Bytes that arrived."""
    started: Callable[[Offer], None]
    """A cache is tried."""
    checkpoint: Callable[[], None]
    """Called between chunks."""


def transfer(
    offer: Offer,
    *,
    sources: Sources,
    destination: Destination,
    recipe: Recipe,
    watch: Watch,
    replacing: bool = False,
) -> Copied:
    """Have the NAR of one path in the mirror, from the next cache when one fails at it.

    Args:
        offer: where to begin.
        sources: where to go on.
        destination: the mirror.
        recipe: what to do on the way.
        watch: is told.
        replacing: write its file, whatever lies there.

    Raises:
        DestinationError: the mirror cannot take it.
        NixfetchError: no cache gave it.
    """
    begin = time.monotonic()
    attempts = 0
    anew = False
    while True:
        attempts += not anew
        copying = _Copying(offer, destination, recipe, watch, replacing=replacing)
        try:
            with facts(cache=offer.cache.url, path=offer.info.path):
                info = copying.go()
        except HEALABLE as error:
            if copying.stitched and not anew and not isinstance(error, TransportError):
                # Parts of two objects, perhaps: nobody is blamed before that is known.
                _log.info("%s: put together, and no good: %s", offer.cache.url, error)
                anew = True
                continue
            anew = False
            if not isinstance(error, TransportError) or isinstance(error, NarGoneError):
                offer.cache.disbelieved(error)
            offer = sources.find_next(offer, error)
        else:
            if copying.sent:
                offer.cache.believed()
            text = _text(info, offer.info, recipe)
            return Copied(
                offer=offer,
                info=info,
                text=text,
                sent=copying.sent,
                attempts=attempts,
                seconds=time.monotonic() - begin,
            )


def _text(info: NarInfo, original: NarInfo, recipe: Recipe) -> bytes:
    """The narinfo for the mirror: byte for byte where nothing has changed."""
    if recipe.key is not None:
        signature = recipe.key.sign(info.fingerprint())
        if signature not in info.signatures:
            info = replace(info, signatures=(*info.signatures, signature))
    return original.raw if info == original and original.raw else info.render()


def _most(info: NarInfo) -> int:
    """Bytes that the NAR of `info` has at most, however badly it compresses."""
    return info.nar_size + info.nar_size // 64 + _SLACK


class _Copying:
    def __init__(
        self,
        offer: Offer,
        destination: Destination,
        recipe: Recipe,
        watch: Watch,
        *,
        replacing: bool,
    ) -> None:
        self._offer, self._destination = offer, destination
        self._recipe, self._watch = recipe, watch
        self._replacing = replacing
        self._arrival: Arriving | None = None
        self.sent = 0

    @property
    def stitched(self) -> bool:
        """Whether the file came in more than one body, which may be parts of two objects."""
        return self._arrival is not None and self._arrival.stitched

    def go(self) -> NarInfo:
        """What the narinfo will say."""
        info = self._offer.info
        if self._recipe.recompress:
            return self._recompressed(info)
        info = self._named(info)
        if self._is_needless(info):
            return info
        with ExitStack() as stack:
            inspected = self._inspect(info)
            upload = stack.enter_context(self._destination.writing(info.url, size=info.file_size))
            for chunk in inspected.file():
                upload.write(chunk)
                self.sent += len(chunk)
            inspected.finish()
        self._list(inspected)
        return info

    def _is_needless(self, info: NarInfo) -> bool:
        """Whether the file is there, and nobody wants to look into it."""
        if self._replacing or self._recipe.decodes(info):
            return False
        return info.file_size is not None and self._destination.size(info.url) == info.file_size

    def _named(self, info: NarInfo) -> NarInfo:
        """With a URL that can be that of its file."""
        if naming.keeps_url(info):
            if self._replacing or naming.names_content(info):
                return info
            size = self._destination.size(info.url)
            if size is None or self._is_there(info, size):
                return info
            _log.info("%s: %s is another file there", self._destination.url, info.url)
        return replace(info, url=naming.usual_name(info), raw=b"")

    def _is_there(self, info: NarInfo, size: int) -> bool:
        """Whether the object of `info`'s URL is its file: the URL does not say."""
        if info.file_hash is None or info.file_hash.algorithm not in HASHES:
            return False
        if info.file_size not in {None, size}:
            return False
        actual = self._destination.digest(
            replace(self._offer.trusted, info=info),
            info.file_hash.algorithm,
            checkpoint=self._watch.checkpoint,
        )
        return actual == info.file_hash.digest

    def _recompressed(self, info: NarInfo) -> NarInfo:
        name = naming.seekable_name(info, level=self._recipe.level)
        compressor = SeekableCompressor(self._recipe.level)
        digest = hashlib.sha256()
        inspected = self._inspect(info)
        with self._destination.writing(name, size=_most(info)) as upload:

            def write(frames: Iterable[bytes]) -> None:
                for frame in frames:
                    digest.update(frame)
                    upload.write(frame)
                    self.sent += len(frame)

            for piece in inspected.nar():
                write(compressor.feed(piece))
            inspected.finish()
            write(compressor.finish())
        self._list(inspected)
        return replace(
            info,
            url=name,
            compression="zstd",
            file_hash=Hash("sha256", digest.digest()),
            file_size=self.sent,
            raw=b"",
        )

    def _inspect(self, info: NarInfo) -> Inspection:
        return Inspection(
            info,
            self._arriving(),
            decode=self._recipe.decodes(info),
            list_it=self._recipe.listing,
        )

    def _arriving(self) -> Iterator[bytes]:
        """The file as it comes from the cache."""
        offer = self._offer
        self._watch.started(offer)
        with offer.cache.file(
            offer.trusted,
            downloaded=self._watch.downloaded,
            hurried=offer.hunt.hurried,
            pausing=self._watch.checkpoint,
        ) as self._arrival:
            for chunk in self._arrival:
                self._watch.checkpoint()
                yield chunk

    def _list(self, inspected: Inspection) -> None:
        root = inspected.listing
        if root is not None:
            name = f"{self._offer.info.path.hash_part}.ls"
            self._destination.put(name, listing.render(root))
