from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from nixfetch.plan.closure import Closure, CycleError
from nixfetch.plan.readiness import Readiness
from property.strategies import numbered

if TYPE_CHECKING:
    from nixfetch.formats.storepath import StorePath

A, B, C, D, E = (numbered(n) for n in range(5))
MANY = 100_000


def walk(references: dict[StorePath, list[StorePath]], *asked: StorePath) -> Closure:
    closure = Closure(asked)
    while paths := closure.wanted():
        for path in paths:
            closure.learn(path, references[path])
    return closure


def test_each_path_is_wanted_once_in_the_order_of_meeting() -> None:
    closure = Closure([B, A, B])
    assert closure.wanted() == [B, A]
    assert closure.wanted() == []
    closure.learn(A, [C, B, A])
    closure.learn(B, [D, C])
    assert closure.wanted() == [C, D]
    closure.learn(C, [])
    closure.learn(D, [A])
    assert closure.wanted() == []
    assert len(closure) == 4


def test_references_without_the_path_itself() -> None:
    closure = Closure([A])
    assert closure.references(A) == ()
    closure.learn(A, [B, A])
    assert closure.references(A) == (B,)


def test_the_chain_says_how_a_path_came_in() -> None:
    closure = walk({A: [B, C], B: [D], C: [D], D: []}, A)
    assert closure.chain(D) == [A, B, D]
    assert closure.chain(A) == [A]
    assert closure.chain(E) == [E]


def test_references_come_first() -> None:
    closure = walk({A: [C, B], B: [D], C: [D], D: [D]}, A)
    order = closure.order()
    assert order[0] == D
    assert order[-1] == A
    assert set(order) == {A, B, C, D}


def test_what_is_not_learnt_is_not_in_the_order() -> None:
    closure = Closure([A])
    closure.learn(A, [B])
    assert closure.order() == [A]


@pytest.mark.parametrize("size", [2, 3, 20])
def test_circles_are_refused(size: int) -> None:
    ring = [numbered(n) for n in range(size)]
    references = {path: [ring[(n + 1) % size]] for n, path in enumerate(ring)}
    above, below = numbered(100), numbered(101)
    references[above] = [ring[0], below]
    references[below] = []
    closure = walk(references, above)
    with pytest.raises(CycleError) as caught:
        closure.order()
    assert caught.value.problem == "store paths refer to each other in a circle"
    named = caught.value.facts["paths"]
    assert named == sorted(map(str, [*ring, above]))[:10]


def test_long_chains_and_wide_fans_take_linear_time_and_no_recursion() -> None:
    chain = [numbered(n) for n in range(MANY)]
    started = time.process_time()
    deep = walk({path: chain[n + 1 : n + 2] for n, path in enumerate(chain)}, chain[0])
    assert deep.order() == chain[::-1]
    assert deep.chain(chain[-1]) == chain
    wide = walk({path: [] for path in chain[1:]} | {chain[0]: chain[1:]}, chain[0])
    assert wide.order()[-1] == chain[0]
    assert time.process_time() - started < 10  # takes 1; anything quadratic takes hours


def test_registration_waits_for_the_last_reference() -> None:
    readiness = Readiness()
    readiness.finished(A, [B, C, A])
    readiness.finished(B, [C])
    assert readiness.ready() == []
    assert readiness.waiting() == [A, B]
    readiness.finished(C, [])
    assert readiness.ready() == [C, B, A]
    assert readiness.ready() == readiness.waiting() == []
    assert readiness.knows(A)
    assert not readiness.knows(D)


def test_valid_paths_need_no_registration() -> None:
    readiness = Readiness()
    readiness.valid(B)
    readiness.valid(B)
    readiness.finished(A, [B, C])
    assert readiness.ready() == []
    readiness.valid(C)
    assert readiness.ready() == [A]


def test_a_circle_is_never_ready() -> None:
    readiness = Readiness()
    readiness.finished(A, [B])
    readiness.finished(B, [A])
    assert readiness.ready() == []
    assert readiness.waiting() == [A, B]


def test_a_long_chain_becomes_ready_at_once_without_recursion() -> None:
    chain = [numbered(n) for n in range(MANY)]
    readiness = Readiness()
    for path, reference in pairwise(chain):
        readiness.finished(path, [reference])
    readiness.finished(chain[-1], [])
    assert readiness.ready() == chain[::-1]
