"""Which cache to ask next, and what to say when none is left.

    caches by priority -> ask the first -> good: done
                                       -> any failure: remember it, ask the next
    none left          -> once more those that were not waited for as long as they might

A failure of one cache is never fatal while another is left: a wrong signature or a broken
archive says something about that cache, and nothing about the path. And as long as another is
left, nobody waits long for one that is busy or slow; but it may be the only one that has the
path, so that two caches are never worse than one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from nixfetch.errors import FormatError, NixfetchError, StoreError, TransportError, TrustError

if TYPE_CHECKING:
    from collections.abc import Sequence

_T = TypeVar("_T")


class MissingError(TransportError):
    """No cache has the path.

    Attributes:
        errors: what each cache that was asked said: its URL, its error.
    """

    exit_code = 3
    errors: tuple[tuple[str, NixfetchError], ...] = ()


class AllSourcesFailedError(NixfetchError):
    """No cache gave the path, and at least one failed at it.

    Attributes:
        errors: what each cache that was asked said: its URL, its error.
    """

    exit_code = 5

    def __init__(
        self,
        problem: str,
        errors: Sequence[tuple[str, NixfetchError]],
        *,
        worst: NixfetchError,
        **facts: object,
    ) -> None:
        super().__init__(problem, hint=worst.hint, **facts)
        self.errors = tuple(errors)
        self.exit_code = worst.exit_code


def by_priority(priorities: Sequence[int]) -> list[int]:
    """Indexes of caches in the order of asking.

    Args:
        priorities: of each cache, in the order in which the user named them; lower is earlier.
    """
    return sorted(range(len(priorities)), key=priorities.__getitem__)


def decoding_cost(compression: str) -> int:
    """What a compression costs to undo, beside others: the lower, the better."""
    return _COSTS.get(compression, max(_COSTS.values()))


_COSTS = {"none": 0, "": 0, "lz4": 1, "zstd": 1, "gzip": 2, "br": 2, "xz": 4, "lzma": 4, "lzip": 4}


@dataclass(slots=True, eq=False)
class _Source(Generic[_T]):
    url: str
    handle: _T
    error: NixfetchError | None = None


class Hunt(Generic[_T]):
    """The search for one store path through several caches."""

    def __init__(self, path: str, sources: Sequence[tuple[str, _T]]) -> None:
        """Begin.

        Args:
            path: what is hunted, for messages.
            sources: URL and handle of each cache, in the order of asking.
        """
        self._path = path
        self._left = [_Source(url, handle) for url, handle in reversed(sources)]
        self._at: _Source[_T] | None = None
        self._failed: list[_Source[_T]] = []  # in the order of their first failure
        self._passed_over: list[_Source[_T]] = []  # which might have done with more patience
        self.is_second_round = False
        """Whether the cache that `next` gave last was asked before, in a hurry."""

    def next(self) -> _T | None:
        """The cache to ask now; None when all have been asked."""
        if not self._left and self._passed_over:
            self.is_second_round = True
            self._left, self._passed_over = self._passed_over[::-1], []
        self._at = self._left.pop() if self._left else None
        return None if self._at is None else self._at.handle

    @property
    def hurried(self) -> bool:
        """Whether another cache is left but the one that `next` gave last."""
        return bool(self._left) and not self.is_second_round

    def failed(self, error: NixfetchError) -> None:
        """Say why the cache that `next` gave last was no help."""
        assert self._at is not None
        self._note(self._at, error)

    def ahead(self) -> list[_T]:
        """The caches that are left, the next one first."""
        return [source.handle for source in reversed(self._left)]

    def raced(self, order: Sequence[_T], errors: Sequence[tuple[_T, NixfetchError]]) -> None:
        """Say that some of the caches that are left were asked at once.

        Args:
            order: those that are worth going to, the best first; they come next.
            errors: why the others of them were no help.
        """
        for handle, error in errors:
            source = self._source(handle)
            self._note(source, error)
            self._left.remove(source)
        first = [self._source(handle) for handle in order]
        self._left = [source for source in self._left if source not in first] + first[::-1]

    def _source(self, handle: _T) -> _Source[_T]:
        return next(source for source in self._left if source.handle == handle)

    @property
    def errors(self) -> tuple[tuple[str, NixfetchError], ...]:
        """What the caches asked so far said, in that order."""
        return tuple((each.url, each.error) for each in self._failed if each.error is not None)

    def _note(self, source: _Source[_T], error: NixfetchError) -> None:
        if source.error is None:
            self._failed.append(source)
        source.error = error
        if self.hurried and isinstance(error, TransportError) and error.retryable:
            self._passed_over.append(source)

    def verdict(self, *, missing: type[NixfetchError]) -> NixfetchError:
        """The error for the user, when `next` has none left.

        Args:
            missing: what a cache raises that simply has no such path.

        Returns:
            `MissingError` when every cache said just that; the one error of the one cache that
            was asked; or `AllSourcesFailedError`.
        """
        errors = self.errors
        if all(isinstance(error, missing) for _, error in errors):
            asked = [url for url, _ in errors]
            old = any(error.facts.get("remembered") for _, error in errors)
            lost = MissingError(
                "path is in no cache",
                hint="some of them said so lately: --refresh asks again" if old else None,
                path=self._path,
                caches=asked,
            )
            lost.errors = errors
            return lost
        if len(errors) == 1:
            [(url, error)] = errors
            error.facts = {"path": self._path, "cache": url, **error.facts}
            return error
        failures = [error for _, error in errors if not isinstance(error, missing)]
        worst = min(failures, key=_gravity)
        return AllSourcesFailedError("no cache gave the path", errors, worst=worst, path=self._path)


def _gravity(error: NixfetchError) -> int:
    """The smaller, the more the user must know: this machine, then trust, then network."""
    match error:
        case StoreError():
            return 0
        case TrustError() | FormatError():
            return 1
        case _:
            return 2
