"""Who answers about a path: the caches, or the store. Knows not what is asked next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nixfetch.cache.client import HEALABLE
from nixfetch.cache.reading import WrongPathError
from nixfetch.errors import NixfetchError, TrustError, facts
from nixfetch.plan.sources import Hunt
from nixfetch.report.info import PathInfo
from nixfetch.transport.base import NotFoundError

if TYPE_CHECKING:
    from nixfetch.cache.client import BinaryCache
    from nixfetch.cache.group import CacheGroup
    from nixfetch.formats.narinfo import NarInfo
    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import TrustPolicy
    from nixfetch.store.database import Registration
    from nixfetch.store.local import LocalStore


class NotValidError(NixfetchError):
    """The store has no such path."""

    exit_code = 3


def ask_caches(path: StorePath, *, caches: CacheGroup, policy: TrustPolicy) -> PathInfo:
    """What the caches say about `path`, whether it is to be believed or not.

    The answer of the cache that a fetch would take; where it would take none, the first
    answer that is about this path, and why nobody believes it.

    Args:
        path: the path.
        caches: whom to ask, in their order of priority.
        policy: whom a fetch would believe.

    Raises:
        MissingError: no cache has it.
        NixfetchError: no cache says anything usable; it carries what each answered.
    """
    hunt = Hunt(str(path), [(cache.url, cache) for cache in caches.in_order()])
    doubtful: PathInfo | None = None
    while (cache := hunt.next()) is not None:
        try:
            info = _narinfo(path, cache, hurried=hunt.hurried)
        except HEALABLE as error:
            hunt.failed(error)
            continue
        doubt = _doubt(info, cache, policy)
        said = PathInfo.of_narinfo(info, doubt=doubt)
        if doubt is None:
            return said
        hunt.failed(doubt)
        doubtful = doubtful or said
    if doubtful is not None:
        return doubtful
    raise hunt.verdict(missing=NotFoundError)


def ask_store(path: StorePath, *, store: LocalStore) -> PathInfo:
    """What the database of `store` holds of `path`.

    Raises:
        NotValidError: nothing.
        DatabaseError: it cannot be asked.
    """
    return PathInfo.of_registration(registration(path, store))


def registration(path: StorePath, store: LocalStore) -> Registration:
    """The row of `path`. Raises as `ask_store`."""
    entry = store.get(path)
    if entry is None:
        raise NotValidError("path is not valid in the store", path=path, store=str(store.root))
    return entry


def _narinfo(path: StorePath, cache: BinaryCache, *, hurried: bool) -> NarInfo:
    info = cache.narinfo(path.hash_part, hurried=hurried)
    if info.path != path:
        raise WrongPathError(
            "cache answered with another path", cache=cache.url, asked=path, got=info.path
        )
    return info


def _doubt(info: NarInfo, cache: BinaryCache, policy: TrustPolicy) -> TrustError | None:
    try:
        with facts(cache=cache.url):
            policy.admit(info, check=not cache.trusted)
    except TrustError as error:
        return error
    return None
