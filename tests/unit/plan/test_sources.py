from __future__ import annotations

import pytest

from nixfetch.errors import (
    FormatError,
    NixfetchError,
    StoreError,
    TransportError,
    TrustError,
)
from nixfetch.plan.sources import AllSourcesFailedError, Hunt, MissingError, by_priority

PATH = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-a"


class AbsentError(TransportError):
    """What a cache says that has no such path."""


def absent() -> AbsentError:
    return AbsentError("no such object", hint="none")


def hunt(*errors: NixfetchError) -> Hunt[int]:
    """A hunt through as many caches, each of which failed so."""
    made = Hunt(PATH, [(f"https://{n}.example", n) for n in range(len(errors))])
    for number, error in enumerate(errors):
        assert made.next() == number
        made.failed(error)
    assert made.next() is None
    return made


def test_caches_are_asked_in_order() -> None:
    made = Hunt(PATH, [("a", "first"), ("b", "second")])
    assert made.next() == "first"
    assert made.next() == "second"
    made.failed(absent())
    assert [url for url, _ in made.errors] == ["b"]
    assert made.next() is None
    assert made.next() is None


@pytest.mark.parametrize(
    ("priorities", "order"),
    [([], []), ([40], [0]), ([50, 40, 50, 30], [3, 1, 0, 2]), ([1, 1, 1], [0, 1, 2])],
)
def test_lower_priorities_come_first_and_ties_stay(priorities: list[int], order: list[int]) -> None:
    assert by_priority(priorities) == order


@pytest.mark.parametrize("count", [0, 1, 3])
def test_missing_everywhere(count: int) -> None:
    error = hunt(*(absent() for _ in range(count))).verdict(missing=AbsentError)
    assert type(error) is MissingError
    assert error.exit_code == 3
    assert error.problem == "path is in no cache"
    assert error.facts == {
        "path": PATH,
        "caches": [f"https://{n}.example" for n in range(count)],
    }


def test_the_one_error_of_the_one_cache_is_the_verdict() -> None:
    wrong = TrustError("signature is wrong", path="deeper")
    error = hunt(wrong).verdict(missing=AbsentError)
    assert error is wrong
    assert error.facts == {"path": "deeper", "cache": "https://0.example"}


@pytest.mark.parametrize(
    ("errors", "worst"),
    [
        ([TransportError("a", hint="net"), TrustError("b", hint="trust")], 1),
        ([FormatError("a", hint="format"), TransportError("b", hint="net")], 0),
        ([TrustError("a", hint="trust"), StoreError("b", hint="disk")], 1),
        ([FormatError("a", hint="first"), TrustError("b", hint="second")], 0),
        # A cache without the path is not what went wrong.
        ([absent(), TransportError("a", hint="net")], 1),
        ([absent(), absent(), TrustError("a", hint="trust")], 2),
    ],
)
def test_the_gravest_failure_speaks_for_all(errors: list[NixfetchError], worst: int) -> None:
    error = hunt(*errors).verdict(missing=AbsentError)
    assert isinstance(error, AllSourcesFailedError)
    assert error.problem == "no cache gave the path"
    assert error.exit_code == errors[worst].exit_code
    assert error.hint == errors[worst].hint
    assert error.facts == {"path": PATH}
    assert [said for _, said in error.errors] == errors


def test_nobody_has_failed_before_somebody_was_asked() -> None:
    with pytest.raises(AssertionError):
        Hunt(PATH, [("a", 1)]).failed(absent())
