"""What is known of some paths, and how large their closures are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nixfetch.fetch.jobs import LOOKUPS
from nixfetch.fetch.walk import LookupsFailedError, Lost, walk
from nixfetch.report.order import references_first
from nixfetch.report.sums import closure_sums

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from nixfetch.formats.storepath import StorePath
    from nixfetch.report.info import PathInfo


@dataclass(frozen=True, slots=True)
class ClosureSize:
    """Bytes of a path and of all that it refers to."""

    nar: int
    download: int | None
    """Compressed, in so far as the cache says it; None from a store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What was asked for and is known, and what is not."""

    listed: tuple[PathInfo, ...]
    """References first, else by base name. Where closure sizes were asked for: only paths
    whose closure is known to its end."""
    closures: Mapping[StorePath, ClosureSize]
    """Of each listed path; empty where closure sizes were not asked for."""
    missing: tuple[StorePath, ...]
    """Those that would be listed and are not there, or have a closure that is not."""
    failures: tuple[Lost, ...]
    """All paths, listed or not, about which there was no answer."""


class SurveyFailedError(LookupsFailedError):
    """Something is not known of some paths.

    Attributes:
        report: what is known.
    """

    def __init__(self, report: Survey) -> None:
        super().__init__("some paths are not known", report.failures)
        self.report = report


def survey(
    paths: Iterable[StorePath],
    *,
    ask: Callable[[StorePath], PathInfo],
    recursive: bool = False,
    closure_sizes: bool = False,
    threads: int = LOOKUPS,
) -> Survey:
    """What is known of `paths`.

    Args:
        paths: which.
        ask: answers about one, such as `ask_caches` or `ask_store`; called in threads.
        recursive: list all that they refer to as well.
        closure_sizes: find out how large the closure of each listed path is.
        threads: questions at a time.

    Raises:
        SurveyFailedError: about some there was no answer; carries the rest.
        CycleError: some refer to each other in a circle.
        StoreError: the store cannot be asked.
    """
    asked = dict.fromkeys(paths)
    whole = recursive or closure_sizes
    walked = walk(
        asked, ask=ask, references=lambda info: info.references if whole else (), threads=threads
    )
    found = walked.found
    wanted = {path: info for path, info in found.items() if recursive or path in asked}
    order = references_first({path: info.references for path, info in wanted.items()})
    missing = [
        lost.path
        for lost in walked.failures
        if lost.is_missing and (recursive or lost.path in asked)
    ]
    closures: dict[StorePath, ClosureSize] = {}
    if closure_sizes:
        measured, absent = _measure(found, walked.failures)
        closures = {path: measured[path] for path in order if path in measured}
        missing += [path for path in order if path in absent]
        order = list(closures)
    report = Survey(
        listed=tuple(wanted[path] for path in order),
        closures=closures,
        missing=tuple(missing),
        failures=tuple(walked.failures),
    )
    if report.failures:
        raise SurveyFailedError(report)
    return report


def _measure(
    found: Mapping[StorePath, PathInfo], failures: Iterable[Lost]
) -> tuple[dict[StorePath, ClosureSize], set[StorePath]]:
    """Sizes of the closures that are known to their end, and those that are not there.

    A closure is in neither where something else than a missing path keeps it from being known.
    """
    absent: set[StorePath] = set()
    unknown: set[StorePath] = set()
    for lost in failures:
        (absent if lost.is_missing else unknown).add(lost.path)
    order: list[StorePath] = []
    for path in references_first({path: info.references for path, info in found.items()}):
        if not unknown.isdisjoint(found[path].references):
            unknown.add(path)
        elif not absent.isdisjoint(found[path].references):
            absent.add(path)
        else:
            order.append(path)
    return dict(zip(order, _sizes([found[path] for path in order]), strict=True)), absent


def _sizes(infos: list[PathInfo]) -> Iterator[ClosureSize]:
    """Of each closure.

    Args:
        infos: references first, and all of them there.
    """
    number = {info.path: number for number, info in enumerate(infos)}
    references = [[number[path] for path in info.references if path != info.path] for info in infos]
    nar = closure_sums(references, [info.nar_size for info in infos])
    downloads = [info.download for info in infos]
    download = closure_sums(references, [(each and each.size) or 0 for each in downloads])
    for at, each in enumerate(downloads):
        yield ClosureSize(nar[at], None if each is None else download[at])
