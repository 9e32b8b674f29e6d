"""Whether the NARs of a closure are there: one byte of each is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nixfetch.cache.client import HEALABLE
from nixfetch.fetch.jobs import LOOKUPS
from nixfetch.fetch.walk import walk
from nixfetch.transport.base import Range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nixfetch.cache import CacheGroup
    from nixfetch.errors import NixfetchError
    from nixfetch.formats.narinfo import NarInfo
    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import TrustPolicy
    from nixfetch.transport import Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class NarCensus:
    """What came of it."""

    there: int
    """NARs that could be read from."""
    lost: tuple[tuple[StorePath, NixfetchError], ...]
    """Paths of the closure without a narinfo to be believed or without a NAR, by path."""


@dataclass(frozen=True, slots=True)
class _Asked:
    info: NarInfo
    error: NixfetchError | None


def take_census(
    paths: Iterable[StorePath],
    *,
    caches: CacheGroup,
    transport: Callable[[str], Transport],
    policy: TrustPolicy,
    threads: int = LOOKUPS,
) -> NarCensus:
    """Ask for a byte of the NAR of each path in the closure of `paths`.

    Args:
        paths: where to begin.
        caches: who is asked for narinfos; a NAR is expected where its narinfo is.
        transport: to a cache, by its URL.
        policy: whom to believe.
        threads: questions at a time.
    """

    def ask(path: StorePath) -> _Asked:
        found = caches.find(path, policy)
        info = found.trusted.info
        try:
            with transport(found.cache.url).open(info.url, Range(start=0, stop=1)) as body:
                next(body.chunks, b"")
        except HEALABLE as error:
            error.facts.setdefault("cache", found.cache.url)
            return _Asked(info, error)
        return _Asked(info, None)

    walked = walk(paths, ask=ask, references=lambda asked: asked.info.references, threads=threads)
    gone = {path: one.error for path, one in walked.found.items() if one.error is not None}
    gone |= {lost.path: lost.error for lost in walked.failures}
    return NarCensus(
        there=len(walked.found) - sum(path in gone for path in walked.found),
        lost=tuple(sorted(gone.items(), key=lambda one: one[0].base)),
    )
