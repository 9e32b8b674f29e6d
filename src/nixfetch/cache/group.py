"""Several caches as one, in strict order of priority.

A second cache is asked only for what the first lacks or fails at. Where a race is wanted, caches of
equal priority are asked together, and the one whose NAR is cheapest to decode is taken.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Self

from nixfetch.cache.client import HEALABLE
from nixfetch.cache.download import NarForbiddenError, NarGoneError
from nixfetch.cache.gate import OutOfPatienceError
from nixfetch.cache.race import Lanes, race
from nixfetch.cache.small import OfflineError
from nixfetch.errors import TransportError
from nixfetch.formats.cacheinfo import DEFAULT_PRIORITY
from nixfetch.plan.sources import Hunt, by_priority, decoding_cost
from nixfetch.transport.base import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType

    from nixfetch.cache.client import BinaryCache
    from nixfetch.errors import NixfetchError
    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import Trusted, TrustPolicy

_log = logging.getLogger(__name__)
_ORDERING = 10.0  # seconds for all caches to say their priority, before the run goes on without


@dataclass(frozen=True, slots=True)
class Answer:
    """What a cache says of a path."""

    trusted: Trusted
    remembered: bool = False
    """Whether it said so in an earlier run."""


@dataclass(frozen=True, slots=True)
class Found:
    """A path that a cache has and somebody vouches for, and where else it could be had."""

    answer: Answer
    cache: BinaryCache
    hunt: Hunt[BinaryCache]

    @property
    def trusted(self) -> Trusted:
        """What the cache says of it, vouched for."""
        return self.answer.trusted

    @property
    def hurried(self) -> bool:
        """Whether another cache is left for it."""
        return self.hunt.hurried


class CacheGroup:
    """The caches of a run. Close it, or leave its ``with`` block. Safe to share among threads."""

    def __init__(
        self,
        caches: Iterable[BinaryCache],
        *,
        race: bool = False,
        ordering: float = _ORDERING,
        on_close: Callable[[], object] = lambda: None,
    ) -> None:
        """Use `caches`, which become this object's to close; ties go to the earlier one.

        Args:
            caches: as the user named them.
            race: ask caches of equal priority together.
            ordering: seconds that they have to say their priority.
            on_close: called when they are closed.
        """
        self._caches = list(caches)
        self._race = race
        self._lanes = Lanes()
        self._given_up: set[BinaryCache] = set()
        self._ordering = ordering
        self._on_close = on_close
        self._ordered: list[BinaryCache] | None = None
        self._ranks: dict[BinaryCache, int] = {}
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
        reason or not in time, is taken at Nix's default: it may still have what we look for.
        """
        with self._lock:
            if self._ordered is None:
                if len(self._caches) > 1:
                    priorities = _priorities(self._caches, self._ordering)
                    self._ranks = dict(zip(self._caches, priorities, strict=True))
                    self._ordered = [self._caches[rank] for rank in by_priority(priorities)]
                else:
                    self._ordered = self._caches
            return self._ordered

    def find(
        self, path: StorePath, policy: TrustPolicy, *, pausing: Callable[[], object] = lambda: None
    ) -> Found:
        """The first cache that has `path`, vouched for.

        Args:
            path: what to look for.
            policy: whom to believe.
            pausing: called several times a second while a cache is waited for; raises to give up.

        Raises:
            MissingError: no cache has it.
            NixfetchError: no cache has it in a form to be believed; says what each answered.
        """
        hunt = Hunt(str(path), [(cache.url, cache) for cache in self.in_order()])
        return self._next(path, policy, hunt, race=self._race, pausing=pausing)

    def find_next(
        self,
        found: Found,
        error: NixfetchError,
        policy: TrustPolicy,
        *,
        pausing: Callable[[], object] = lambda: None,
    ) -> Found:
        """The next cache for a path whose NAR was no good.

        Args:
            found: what was tried.
            error: why it was no good; one of `HEALABLE`.
            policy: as before.
            pausing: as for `find`.

        Raises:
            As `find`.
        """
        path = found.trusted.info.path
        if isinstance(error, NarGoneError) or not isinstance(error, TransportError):
            if not isinstance(error, NarForbiddenError):  # which says nothing of the narinfo
                found.cache.forget(path)
            if found.answer.remembered:  # an old one; the cache may have another by now
                try:
                    trusted = found.cache.ask(path, policy, hurried=found.hurried, pausing=pausing)
                except NotFoundError as missing:
                    error = missing
                except HEALABLE as newer:
                    _log.info("%s: asked for %s once more: %s", found.cache.url, path, newer)
                else:
                    if _names_another(trusted, found.trusted):
                        return replace(found, answer=Answer(trusted))
        found.hunt.failed(error)
        return self._next(path, policy, found.hunt, pausing=pausing)

    def resolve(self, hash_part: str) -> StorePath:
        """The full path with this hash part, on the word of the first cache that has one.

        Raises:
            As `find`.
        """
        hunt = Hunt(hash_part, [(cache.url, cache) for cache in self.in_order()])
        while (cache := hunt.next()) is not None:
            try:
                return cache.narinfo(hash_part, hurried=hunt.hurried).path
            except HEALABLE as error:
                hunt.failed(error)
        raise hunt.verdict(missing=NotFoundError)

    def _next(
        self,
        path: StorePath,
        policy: TrustPolicy,
        hunt: Hunt[BinaryCache],
        *,
        race: bool = False,
        pausing: Callable[[], object],
    ) -> Found:
        def ask(cache: BinaryCache, *, hurried: bool) -> Answer:
            return _look_up(cache, path, policy, hurried=hurried, pausing=pausing)

        while True:
            answer = self._raced(hunt, ask=partial(ask, hurried=True)) if race else None
            cache = hunt.next()
            if cache is None:
                raise hunt.verdict(missing=NotFoundError)
            try:
                answer = answer or ask(cache, hurried=hunt.hurried)
            except HEALABLE as error:
                hunt.failed(error)
                self._tell(cache, error)
            else:
                return Found(answer, cache, hunt)

    def _tell(self, cache: BinaryCache, error: NixfetchError) -> None:
        """Say what went wrong; that a cache is not asked any more, once and not for each path."""
        if isinstance(error, NotFoundError):
            return
        if isinstance(error, OutOfPatienceError):
            if cache in self._given_up:
                return
            self._given_up.add(cache)
        _log.info("%s: %s", cache.url, error)

    def _raced(
        self, hunt: Hunt[BinaryCache], *, ask: Callable[[BinaryCache], Answer]
    ) -> Answer | None:
        """Ask those that come next, if they are equals; the answer of the best, who is next now."""
        ahead = hunt.ahead()
        equals = list(takewhile(lambda cache: self._is_level(cache, ahead[0]), ahead))
        if len(equals) < 2 or hunt.is_second_round:  # noqa: PLR2004 - one alone races with nobody
            return None
        finish = race(
            equals,
            ask,
            cost=lambda answer: _cost(answer.trusted),
            lanes=self._lanes,
        )
        hunt.raced(finish.order, finish.errors)
        return finish.best

    def _is_level(self, one: BinaryCache, other: BinaryCache) -> bool:
        return self._ranks.get(one) == self._ranks.get(other)


def _look_up(
    cache: BinaryCache,
    path: StorePath,
    policy: TrustPolicy,
    *,
    hurried: bool,
    pausing: Callable[[], object],
) -> Answer:
    recalled = cache.recall(path, policy)
    if recalled is not None:
        return Answer(recalled, remembered=True)
    return Answer(cache.ask(path, policy, hurried=hurried, pausing=pausing))


def _cost(trusted: Trusted) -> tuple[int, int]:
    info = trusted.info
    return decoding_cost(info.compression), info.file_size or info.nar_size


def _names_another(one: Trusted, other: Trusted) -> bool:
    """Whether two narinfos of a path name different NARs."""
    return (one.info.url, one.info.nar_hash) != (other.info.url, other.info.nar_hash)


def _priorities(caches: Sequence[BinaryCache], seconds: float) -> list[int]:
    """Of each cache; all are asked at once, and have `seconds` for it."""
    found = [DEFAULT_PRIORITY] * len(caches)
    crashes: list[BaseException] = []

    def ask(number: int) -> None:
        try:
            found[number] = _priority(caches[number])
        except BaseException as error:  # noqa: BLE001 - raised below
            crashes.append(error)

    threads: list[tuple[BinaryCache, threading.Thread]] = []
    for number, cache in enumerate(caches):
        thread = threading.Thread(target=ask, args=[number], name="nixfetch-priority", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # this machine has no more of them
            ask(number)
        else:
            threads.append((cache, thread))
    deadline = time.monotonic() + seconds
    for cache, thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            _log.warning("%s does not say its priority in time", cache.url)
    for crash in crashes:
        raise crash
    return found.copy()  # who is late does not count any more


def _priority(cache: BinaryCache) -> int:
    try:
        return cache.priority
    except HEALABLE as error:
        expected = cache.is_closed or isinstance(error, OfflineError)
        level = logging.INFO if expected else logging.WARNING
        _log.log(level, "%s does not say its priority: %s", cache.url, error)
    return DEFAULT_PRIORITY
