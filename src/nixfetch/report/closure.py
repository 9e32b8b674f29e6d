"""The closure of some paths: all that they refer to. Asks for nothing but references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nixfetch.fetch.jobs import LOOKUPS
from nixfetch.fetch.walk import LookupsFailedError, Lost, walk
from nixfetch.report.ask import registration
from nixfetch.report.order import references_first

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nixfetch.cache.group import CacheGroup
    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import TrustPolicy
    from nixfetch.store.local import LocalStore


@dataclass(frozen=True, slots=True)
class ClosureReport:
    """A closure, or as much of it as is whole."""

    paths: tuple[StorePath, ...]
    """References first, else by base name; of each path all references are there too."""
    failures: tuple[Lost, ...]
    """Paths about which there was no answer; neither they nor their referrers are in `paths`."""


class ClosureFailedError(LookupsFailedError):
    """Some paths of the closure are not known, or not to be believed.

    Attributes:
        report: the whole closures among what was asked for.
    """

    def __init__(self, report: ClosureReport) -> None:
        super().__init__("the closure is not whole", report.failures)
        self.report = report


def closure(
    paths: Iterable[StorePath],
    *,
    ask: Callable[[StorePath], tuple[StorePath, ...]],
    threads: int = LOOKUPS,
) -> ClosureReport:
    """The closure of `paths`.

    Args:
        paths: which.
        ask: what one path refers to, such as `trusted_references` or `references_in_store`
            say; called in threads.
        threads: questions at a time.

    Raises:
        ClosureFailedError: about some there was no answer; carries the rest.
        CycleError: some refer to each other in a circle.
        StoreError: the store cannot be asked.
    """
    walked = walk(paths, ask=ask, references=lambda references: references, threads=threads)
    whole: dict[StorePath, None] = {}
    for path in references_first(walked.found):
        if all(reference == path or reference in whole for reference in walked.found[path]):
            whole[path] = None
    report = ClosureReport(tuple(whole), tuple(walked.failures))
    if report.failures:
        raise ClosureFailedError(report)
    return report


def trusted_references(
    path: StorePath, *, caches: CacheGroup, policy: TrustPolicy
) -> tuple[StorePath, ...]:
    """What `path` refers to, in the words of the cache that a fetch would take.

    Raises:
        As `CacheGroup.find`: missing, or not to be believed.
    """
    return caches.find(path, policy).trusted.info.references


def references_in_store(path: StorePath, *, store: LocalStore) -> tuple[StorePath, ...]:
    """What the valid `path` refers to, as the database of `store` has it.

    Raises:
        As `ask_store`.
    """
    return registration(path, store).references
