"""Which cache to ask next, and what to say when none is left.

    caches by priority -> ask the first -> good: done
                                       -> any failure: remember it, ask the next

A failure of one cache is never fatal while another is left: a wrong signature or a broken
archive says something about that cache, and nothing about the path.
"""

from __future__ import annotations

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


class Hunt(Generic[_T]):
    """The search for one store path through several caches."""

    def __init__(self, path: str, sources: Sequence[tuple[str, _T]]) -> None:
        """Begin.

        Args:
            path: what is hunted, for messages.
            sources: URL and handle of each cache, in the order of asking.
        """
        self._path = path
        self._left = list(reversed(sources))
        self._at: tuple[str, _T] | None = None
        self._errors: list[tuple[str, NixfetchError]] = []

    def next(self) -> _T | None:
        """The cache to ask now; None when all have been asked."""
        self._at = self._left.pop() if self._left else None
        return None if self._at is None else self._at[1]

    @property
    def is_last(self) -> bool:
        """Whether none is left but the one that `next` gave last."""
        return not self._left

    def raced(self, order: Sequence[_T], errors: Sequence[tuple[_T, NixfetchError]]) -> None:
        """Say that some of the caches that are left were asked at once.

        Args:
            order: those that are worth going to, the best first; they come next.
            errors: why the others of them were no help.
        """
        left = {id(handle): (url, handle) for url, handle in self._left}
        for handle, error in errors:
            url, _ = left.pop(id(handle))
            self._errors.append((url, error))
        first = [left.pop(id(handle)) for handle in order]
        rest = [source for source in self._left if id(source[1]) in left]
        self._left = [*rest, *reversed(first)]

    def failed(self, error: NixfetchError) -> None:
        """Say why the cache that `next` gave last was no help."""
        assert self._at is not None
        self._errors.append((self._at[0], error))

    @property
    def errors(self) -> tuple[tuple[str, NixfetchError], ...]:
        """What the caches asked so far said, in that order."""
        return tuple(self._errors)

    def verdict(self, *, missing: type[NixfetchError]) -> NixfetchError:
        """The error for the user, when `next` has none left.

        Args:
            missing: what a cache raises that simply has no such path.

        Returns:
            `MissingError` when every cache said just that; the one error of the one cache that
            was asked; or `AllSourcesFailedError`.
        """
        if all(isinstance(error, missing) for _, error in self._errors):
            asked = [url for url, _ in self._errors]
            lost = MissingError("path is in no cache", path=self._path, caches=asked)
            lost.errors = self.errors
            return lost
        if len(self._errors) == 1:
            [(url, error)] = self._errors
            error.facts = {"path": self._path, "cache": url, **error.facts}
            return error
        failures = [error for _, error in self._errors if not isinstance(error, missing)]
        worst = min(failures, key=_gravity)
        return AllSourcesFailedError(
            "no cache gave the path", self._errors, worst=worst, path=self._path
        )


def _gravity(error: NixfetchError) -> int:
    """The smaller, the more the user must know: this machine, then trust, then network."""
    match error:
        case StoreError():
            return 0
        case TrustError() | FormatError():
            return 1
        case _:
            return 2
