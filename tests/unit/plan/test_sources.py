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


# Once more, with more patience.

BUSY = TransportError("busy", retryable=True)
BROKEN = TransportError("broken")


def three() -> Hunt[str]:
    return Hunt(PATH, [(f"https://{name}.example", name) for name in "abc"])


def asked(made: Hunt[str], answers: list[NixfetchError]) -> list[tuple[str, bool]]:
    """Who is asked, and whether in a hurry, while everybody fails with the next of `answers`."""
    said = []
    left = iter(answers)
    while (name := made.next()) is not None:
        said.append((name, made.hurried))
        made.failed(next(left))
    return said


def test_who_was_asked_in_a_hurry_is_asked_once_more() -> None:
    made = three()
    again = TransportError("busy for good", retryable=True)
    order = asked(made, [BUSY, BROKEN, absent(), again])
    assert order == [("a", True), ("b", True), ("c", False), ("a", False)]
    assert [error for _, error in made.errors][:2] == [again, BROKEN]
    assert [url for url, _ in made.errors] == [f"https://{name}.example" for name in "abc"]


def test_who_had_all_the_patience_is_not() -> None:
    assert len(asked(three(), [absent(), BROKEN, BUSY])) == 3


def test_a_second_round_hurries_nobody_and_is_the_last() -> None:
    order = asked(three(), [BUSY] * 5)
    assert order[3:] == [("a", False), ("b", False)]


# Races.


def test_after_a_race_the_best_comes_first() -> None:
    made = three()
    assert made.ahead() == ["a", "b", "c"]
    made.raced(["b", "a"], [])
    assert made.ahead() == ["b", "a", "c"]
    assert made.next() == "b"
    assert made.ahead() == ["a", "c"]


def test_after_a_race_who_failed_is_done_with() -> None:
    made = three()
    made.raced(["b"], [("a", BROKEN)])
    assert made.errors == (("https://a.example", BROKEN),)
    assert made.ahead() == ["b", "c"]


def test_who_was_busy_in_a_race_is_asked_once_more() -> None:
    made = three()
    made.raced([], [("a", BUSY), ("b", absent())])
    assert asked(made, [absent(), absent()]) == [("c", False), ("a", False)]


def test_what_is_remembered_as_missing_can_be_asked_for_again() -> None:
    old = AbsentError("no such object", remembered=True)
    assert "--refresh" in str(hunt(old, absent()).verdict(missing=AbsentError).hint)
    assert hunt(absent()).verdict(missing=AbsentError).hint is None
