from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nixfetch.errors import FormatError
from nixfetch.formats.hashes import sha256
from nixfetch.plan.closure import CycleError
from nixfetch.plan.sources import MissingError
from nixfetch.report import ClosureSize, Download, PathInfo, Survey, SurveyFailedError, survey
from simulated_cache import store_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nixfetch.formats.storepath import StorePath

A, B, C, D = map(store_path, "abcd")
GONE, BROKEN = store_path("gone"), store_path("broken")
SIZES = {A: 1, B: 20, C: 300, D: 4000}


def asking(
    graph: Mapping[StorePath, tuple[StorePath, ...]], *, from_cache: bool = True
) -> Callable[[StorePath], PathInfo]:
    def ask(path: StorePath) -> PathInfo:
        if path == BROKEN:
            raise FormatError("nonsense", path=path)
        if path not in graph:
            raise MissingError("path is in no cache", path=path)
        size = SIZES.get(path, 5)
        return PathInfo(
            path=path,
            nar_hash=sha256(b""),
            nar_size=size,
            references=graph[path],
            signatures=(),
            download=Download("nar/x", "xz", None, size * 2) if from_cache else None,
        )

    return ask


DIAMOND = {A: (A, B, C), B: (D,), C: (D,), D: ()}


def listed(report: Survey) -> list[StorePath]:
    return [info.path for info in report.listed]


def failed(
    paths: list[StorePath],
    ask: Callable[[StorePath], PathInfo],
    *,
    recursive: bool = False,
    closure_sizes: bool = False,
) -> SurveyFailedError:
    with pytest.raises(SurveyFailedError) as caught:
        survey(paths, ask=ask, recursive=recursive, closure_sizes=closure_sizes)
    return caught.value


def test_only_what_was_asked_for_is_asked() -> None:
    ask = asking({A: DIAMOND[A]})
    report = survey([A], ask=ask)
    assert report == Survey(listed=(ask(A),), closures={}, missing=(), failures=())


def test_recursive_lists_all_references_first() -> None:
    report = survey([A], ask=asking(DIAMOND), recursive=True)
    order = listed(report)
    assert set(order) == set(DIAMOND)
    assert (order[0], order[-1]) == (D, A)
    assert report.closures == {}


def test_closure_sizes_count_each_path_once() -> None:
    report = survey([A, D], ask=asking(DIAMOND), closure_sizes=True)
    assert listed(report) == [D, A]
    assert report.closures == {A: ClosureSize(4321, 8642), D: ClosureSize(4000, 8000)}


def test_sizes_of_a_store_have_no_downloads() -> None:
    report = survey(
        [A], ask=asking(DIAMOND, from_cache=False), recursive=True, closure_sizes=True, threads=1
    )
    assert report.closures[A] == ClosureSize(4321, None)
    assert report.closures[B] == ClosureSize(4020, None)


def test_a_download_of_unknown_size_counts_nothing() -> None:
    def unknown(path: StorePath) -> PathInfo:
        return PathInfo(
            path=path,
            nar_hash=sha256(b""),
            nar_size=7,
            references=(),
            signatures=(),
            download=Download("nar/x", "xz", None, None),
        )

    assert survey([D], ask=unknown, closure_sizes=True).closures == {D: ClosureSize(7, 0)}


def test_a_missing_path_does_not_hide_the_others() -> None:
    error = failed([GONE, A], asking(DIAMOND))
    assert listed(error.report) == [A]
    assert error.report.missing == (GONE,)
    assert error.exit_code == 3


def test_what_could_not_be_found_out_is_not_missing() -> None:
    error = failed([BROKEN, GONE, A], asking(DIAMOND))
    assert listed(error.report) == [A]
    assert error.report.missing == (GONE,)
    assert [lost.path for lost in error.report.failures] == sorted([BROKEN, GONE])
    assert error.exit_code == 4


def test_a_reference_that_is_not_there_is_missing_in_a_recursive_survey() -> None:
    error = failed([A], asking({A: (B, GONE), B: ()}), recursive=True)
    assert listed(error.report) == [B, A]
    assert error.report.missing == (GONE,)


def test_a_closure_that_is_not_there_cannot_be_measured() -> None:
    error = failed([A, B, D], asking({A: (B,), B: (GONE,), D: ()}), closure_sizes=True)
    assert listed(error.report) == [D]
    assert set(error.report.missing) == {A, B}
    assert set(error.report.closures) == {D}
    [lost] = error.report.failures
    assert lost.path == GONE
    assert error.exit_code == 3


def test_a_closure_that_could_not_be_found_out_is_not_missing() -> None:
    error = failed([A, B], asking({A: (GONE, BROKEN), B: (GONE,)}), closure_sizes=True)
    assert listed(error.report) == []
    assert error.report.missing == (B,)
    assert error.exit_code == 4


def test_a_circle_is_an_error() -> None:
    with pytest.raises(CycleError):
        survey([A], ask=asking({A: (B,), B: (A,)}), recursive=True)
