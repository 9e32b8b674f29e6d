"""Where paths of a mirror come from: caches in their order, whose narinfos keep their text.

`cache.group` finds paths for a store, which has no use for the text of a narinfo and drops it; a
mirror hands it on, byte for byte.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nixfetch.cache import WrongPathError
from nixfetch.cache.client import HEALABLE
from nixfetch.plan.sources import Hunt
from nixfetch.transport.base import NotFoundError

if TYPE_CHECKING:
    from nixfetch.cache import BinaryCache, CacheGroup
    from nixfetch.errors import NixfetchError
    from nixfetch.formats.narinfo import NarInfo
    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import Trusted, TrustPolicy

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Offer:
    """A path that a cache has and somebody vouches for."""

    trusted: Trusted
    """With the whole text of the narinfo."""
    cache: BinaryCache
    hunt: Hunt[BinaryCache]

    @property
    def info(self) -> NarInfo:
        """What the cache says of it."""
        return self.trusted.info


class Sources:
    """The caches to copy from. Threads may share it.

    Args:
        caches: in which order; they stay the caller's to close.
        policy: whom to believe.
    """

    def __init__(self, caches: CacheGroup, policy: TrustPolicy) -> None:
        self._caches = caches
        self._policy = policy

    def find(self, path: StorePath) -> Offer:
        """The first cache that has `path`, vouched for.

        Raises:
            MissingError: no cache has it.
            NixfetchError: no cache has it in a form to be believed; says what each answered.
        """
        hunt = Hunt(str(path), [(cache.url, cache) for cache in self._caches.in_order()])
        return self._next(path, hunt)

    def find_next(self, offer: Offer, error: NixfetchError) -> Offer:
        """The next offer of a path whose NAR was no good: what is remembered may be old.

        Raises:
            As `find`.
        """
        path = offer.info.path
        offer.cache.forget(path)
        try:
            newer = self._ask(offer.cache, path, hurried=offer.hunt.hurried, fresh=True)
        except HEALABLE as fresh_error:
            _log.info("%s: asked for %s once more: %s", offer.cache.url, path, fresh_error)
        else:
            if newer.info.raw != offer.info.raw:
                return Offer(newer, offer.cache, offer.hunt)
        offer.hunt.failed(error)
        return self._next(path, offer.hunt)

    def resolve(self, hash_part: str) -> StorePath:
        """The full path with this hash part; raises as `find`."""
        return self._caches.resolve(hash_part)

    def _next(self, path: StorePath, hunt: Hunt[BinaryCache]) -> Offer:
        while (cache := hunt.next()) is not None:
            try:
                trusted = self._ask(cache, path, hurried=hunt.hurried)
            except HEALABLE as error:
                hunt.failed(error)
                if not isinstance(error, NotFoundError):
                    _log.info("%s: %s", cache.url, error)
            else:
                return Offer(trusted, cache, hunt)
        raise hunt.verdict(missing=NotFoundError)

    def _ask(
        self, cache: BinaryCache, path: StorePath, *, hurried: bool, fresh: bool = False
    ) -> Trusted:
        info = cache.narinfo(path.hash_part, hurried=hurried, fresh=fresh)
        if info.path != path:
            raise WrongPathError("cache answered with another path", asked=path, got=info.path)
        return self._policy.admit(info, check=not cache.trusted)
