"""Several caches as one, in strict order of priority.

A second cache is asked only for what the first lacks or fails at. Where a race is wanted, caches of
equal priority are asked together, and the one whose NAR is cheapest to decode is taken.
"""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Self

from nixfetch.cache.client import HEALABLE, BinaryCache
from nixfetch.cache.download import NarGoneError
from nixfetch.cache.race import race
from nixfetch.formats.cacheinfo import DEFAULT_PRIORITY
from nixfetch.plan.sources import Hunt, by_priority, decoding_cost
from nixfetch.transport.base import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType

    from nixfetch.errors import NixfetchError
    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import Trusted, TrustPolicy

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """A path that a cache has and somebody vouches for, and where else it could be had."""

    trusted: Trusted
    cache: BinaryCache
    hunt: Hunt[BinaryCache]

    @property
    def hurried(self) -> bool:
        """Whether another cache is left for it."""
        return not self.hunt.is_last


class CacheGroup:
    """The caches of a run. Close it, or leave its ``with`` block. Safe to share among threads."""

    def __init__(
        self,
        caches: Iterable[BinaryCache],
        *,
        race: bool = False,
        on_close: Callable[[], object] = lambda: None,
    ) -> None:
        """Use `caches`, which become this object's to close; ties go to the earlier one.

        Args:
            caches: as the user named them.
            race: ask caches of equal priority together.
            on_close: called when they are closed.
        """
        self._caches = list(caches)
        self._race = race
        self._ties: list[list[BinaryCache]] = []  # in order, those of equal priority together
        self._on_close = on_close
        self._ordered: list[BinaryCache] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all connections."""
        with ExitStack() as stack:
            stack.callback(self._on_close)
            for cache in self._caches:
                stack.callback(cache.close)

    def in_order(self) -> list[BinaryCache]:
        """The caches, the one to ask first first.

        One alone is not asked for its priority. One that does not say it, for whatever
        reason, is taken at Nix's default: it may still have what we look for.
        """
        with self._lock:
            if self._ordered is None:
                priorities = (
                    _priorities(self._caches)
                    if len(self._caches) > 1
                    else [DEFAULT_PRIORITY] * len(self._caches)
                )
                self._ordered = [self._caches[rank] for rank in by_priority(priorities)]
                known = dict(zip(map(id, self._caches), priorities, strict=False))
                ties = groupby(self._ordered, key=lambda cache: known[id(cache)])
                self._ties = [list(tie) for _, tie in ties]
            return self._ordered

    def find(self, path: StorePath, policy: TrustPolicy) -> Found:
        """The first cache that has `path`, vouched for.

        Raises:
            MissingError: no cache has it.
            NixfetchError: no cache has it in a form to be believed; says what each answered.
        """
        caches = self.in_order()
        hunt = Hunt(str(path), [(cache.url, cache) for cache in caches])
        if self._race and len(self._ties) < len(caches):
            return self._after_races(path, policy, hunt)
        return self._next(path, policy, hunt)

    def _after_races(self, path: StorePath, policy: TrustPolicy, hunt: Hunt[BinaryCache]) -> Found:
        for tie in self._ties:
            is_last = tie is self._ties[-1] and len(tie) == 1
            finish = race(
                tie,
                partial(BinaryCache.lookup, path=path, policy=policy, hurried=not is_last),
                cost=lambda trusted: (
                    decoding_cost(trusted.info.compression),
                    trusted.info.file_size or trusted.info.nar_size,
                ),
            )
            hunt.raced(finish.order, finish.errors)
            if finish.best is not None:
                cache = hunt.next()
                assert cache is not None
                return Found(finish.best, cache, hunt)
        raise hunt.verdict(missing=NotFoundError)

    def find_next(self, found: Found, error: NixfetchError, policy: TrustPolicy) -> Found:
        """The next cache for a path whose NAR was no good.

        Args:
            found: what was tried.
            error: why it was no good; one of `HEALABLE`.
            policy: as before.

        Raises:
            As `find`.
        """
        path = found.trusted.info.path
        if isinstance(error, NarGoneError) and found.cache.forget(path):
            # The narinfo was an old one; the cache may have another by now.
            try:
                trusted = found.cache.lookup(path, policy, hurried=found.hurried, fresh=True)
            except HEALABLE as newer:
                error = newer
            else:
                return Found(trusted, found.cache, found.hunt)
        found.hunt.failed(error)
        return self._next(path, policy, found.hunt)

    def resolve(self, hash_part: str) -> StorePath:
        """The full path with this hash part, on the word of the first cache that has one.

        Raises:
            As `find`.
        """
        hunt = Hunt(hash_part, [(cache.url, cache) for cache in self.in_order()])
        while (cache := hunt.next()) is not None:
            try:
                return cache.narinfo(hash_part, hurried=not hunt.is_last).path
            except HEALABLE as error:
                hunt.failed(error)
        raise hunt.verdict(missing=NotFoundError)

    def _next(self, path: StorePath, policy: TrustPolicy, hunt: Hunt[BinaryCache]) -> Found:
        while (cache := hunt.next()) is not None:
            try:
                trusted = cache.lookup(path, policy, hurried=not hunt.is_last)
                return Found(trusted, cache, hunt)
            except HEALABLE as error:
                hunt.failed(error)
                if not isinstance(error, NotFoundError):
                    _log.info("%s: %s", cache.url, error)
        raise hunt.verdict(missing=NotFoundError)


def _priorities(caches: Sequence[BinaryCache]) -> list[int]:
    """Of each cache; all are asked at once, so that dead ones cost their time only once."""
    found = [DEFAULT_PRIORITY] * len(caches)
    crashes: list[BaseException] = []

    def ask(number: int) -> None:
        try:
            found[number] = _priority(caches[number])
        except BaseException as error:  # noqa: BLE001 - raised below
            crashes.append(error)

    threads = [
        threading.Thread(target=ask, args=[number], name="nixfetch-priority", daemon=True)
        for number in range(len(caches))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for crash in crashes:
        raise crash
    return found


def _priority(cache: BinaryCache) -> int:
    try:
        return cache.priority
    except HEALABLE as error:
        _log.warning("%s does not say its priority: %s", cache.url, error)
        return DEFAULT_PRIORITY
