from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from nixfetch.errors import FormatError, NixfetchError, StoreError, TransportError
from nixfetch.fetch.walk import LookupsFailedError, Lost, walk
from nixfetch.plan.sources import MissingError
from simulated_cache import store_path

if TYPE_CHECKING:
    from nixfetch.formats.storepath import StorePath

A, B, C, D = map(store_path, "abcd")
GRAPH = {A: (A, B, C), B: (D,), C: (D,), D: ()}


def graph(path: StorePath) -> tuple[StorePath, ...]:
    try:
        return GRAPH[path]
    except KeyError as error:
        raise MissingError("path is in no cache", path=path) from error


def same(references: tuple[StorePath, ...]) -> tuple[StorePath, ...]:
    return references


def test_each_path_is_asked_for_once() -> None:
    asked: list[StorePath] = []

    def ask(path: StorePath) -> tuple[StorePath, ...]:
        asked.append(path)
        return graph(path)

    done = walk([A, B, A], ask=ask, references=same)
    assert done.found == GRAPH
    assert not done.failures
    assert sorted(asked) == sorted(GRAPH)


def test_nothing_asked_is_nothing_found() -> None:
    done = walk([], ask=graph, references=same)
    assert (done.found, done.failures) == ({}, [])


def test_references_decides_how_far_it_goes() -> None:
    assert walk([A], ask=graph, references=lambda _: ()).found == {A: GRAPH[A]}


def test_many_questions_are_in_flight() -> None:
    together = threading.Barrier(3, timeout=30)

    def ask(path: StorePath) -> tuple[StorePath, ...]:
        together.wait()
        return ()

    assert set(walk([A, B, C], ask=ask, references=same, threads=3).found) == {A, B, C}


def test_a_path_without_an_answer_says_who_needs_it() -> None:
    gone = store_path("gone")
    graph_ = {A: (B,), B: (gone,)}

    def ask(path: StorePath) -> tuple[StorePath, ...]:
        return graph_[path] if path in graph_ else graph(path)

    done = walk([A], ask=ask, references=same)
    assert set(done.found) == {A, B}
    [lost] = done.failures
    assert lost.path == gone
    assert lost.is_missing
    assert lost.error.facts["needed_by"] == [str(A), str(B)]


def test_a_path_that_was_asked_for_needs_no_explanation() -> None:
    [lost] = walk([store_path("gone")], ask=graph, references=same).failures
    assert "needed_by" not in lost.error.facts


def test_failures_come_by_path() -> None:
    gone = [store_path(f"gone{number}") for number in range(20)]
    done = walk(gone, ask=graph, references=same)
    assert [lost.path for lost in done.failures] == sorted(gone)


def test_what_the_store_cannot_do_ends_the_walk() -> None:
    def ask(path: StorePath) -> tuple[StorePath, ...]:
        raise StoreError("the disk is on fire")

    with pytest.raises(StoreError, match="on fire"):
        walk([A, B], ask=ask, references=same)


def test_an_error_that_is_none_of_ours_passes() -> None:
    def ask(path: StorePath) -> tuple[StorePath, ...]:
        raise ValueError(path)

    with pytest.raises(ValueError, match="-a"):
        walk([A], ask=ask, references=same)


def test_ctrl_c_ends_the_walk_and_nothing_more_is_asked() -> None:
    asked: list[StorePath] = []
    stalled = threading.Event()

    def ask(path: StorePath) -> tuple[StorePath, ...]:
        asked.append(path)
        os.kill(os.getpid(), signal.SIGINT)
        stalled.wait(30)  # the answer must not be what wakes the caller
        return ()

    many = [store_path(f"path{number}") for number in range(50)]
    with pytest.raises(KeyboardInterrupt):
        walk(many, ask=ask, references=same, threads=1)
    assert not stalled.is_set()
    stalled.set()
    for thread in threading.enumerate():
        if thread.name.startswith("nixfetch-walk"):
            thread.join(30)
            assert not thread.is_alive()
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([MissingError("x")], 3),
        ([MissingError("x"), TransportError("x")], 5),
        ([TransportError("x"), FormatError("x"), MissingError("x")], 4),
        ([NixfetchError("x"), MissingError("x")], 3),
        ([NixfetchError("x")], 1),
    ],
)
def test_the_gravest_reason_gives_the_exit_code(errors: list[NixfetchError], code: int) -> None:
    failed = LookupsFailedError("no", [Lost(A, error) for error in errors])
    assert failed.exit_code == code
    assert failed.facts == {"failed": len(errors)}
