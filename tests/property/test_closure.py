"""The walk, the order and the registration of closures, on any graph of references."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from nixfetch.plan.closure import Closure
from nixfetch.plan.readiness import Readiness
from nixfetch.plan.retry import RetrySchedule
from property.strategies import graphs

if TYPE_CHECKING:
    from nixfetch.formats.storepath import StorePath

Graph = list[tuple["StorePath", list["StorePath"]]]


def reachable(graph: Graph, asked: list[StorePath]) -> set[StorePath]:
    references = dict(graph)
    found: set[StorePath] = set()
    left = list(asked)
    while left:
        path = left.pop()
        if path not in found:
            found.add(path)
            left += references[path]
    return found


@given(graph=graphs(), data=st.data())
def test_the_walk_wants_each_path_of_the_closure_once(graph: Graph, data: st.DataObject) -> None:
    references = dict(graph)
    asked = data.draw(st.lists(st.sampled_from(list(references)), max_size=3))
    closure = Closure(asked)
    seen: list[StorePath] = []
    pending: list[StorePath] = []
    while pending := pending + closure.wanted():
        # Answers come in any order.
        path = pending.pop(data.draw(st.integers(0, len(pending) - 1)))
        seen.append(path)
        closure.learn(path, references[path])
    assert len(seen) == len(set(seen)) == len(closure)
    assert set(seen) == reachable(graph, asked)
    check_order(closure, references)
    for path in seen:
        chain = closure.chain(path)
        assert chain[0] in asked
        assert chain[-1] == path
        assert all(below in references[above] for above, below in pairwise(chain))


def check_order(closure: Closure, references: dict[StorePath, list[StorePath]]) -> None:
    order = closure.order()
    assert len(order) == len(set(order)) == len(closure)
    done: set[StorePath] = set()
    for path in order:
        assert set(references[path]) <= done | {path}
        done.add(path)


@given(graph=graphs(), data=st.data())
def test_nothing_is_ready_before_its_references(graph: Graph, data: st.DataObject) -> None:
    references = dict(graph)
    readiness = Readiness()
    registered: list[StorePath] = []
    for path in data.draw(st.permutations(list(references))):
        # Some are in the store already; all that they refer to is, too.
        if data.draw(st.integers(0, 5)) == 0:
            for other in reachable(graph, [path]) - set(registered):
                readiness.valid(other)
                registered.append(other)
        if path not in registered:
            readiness.finished(path, references[path])
        if data.draw(st.booleans()):
            register(readiness, registered, references)
    register(readiness, registered, references)
    assert set(registered) == set(references)
    assert readiness.waiting() == []


def register(
    readiness: Readiness,
    registered: list[StorePath],
    references: dict[StorePath, list[StorePath]],
) -> None:
    for path in readiness.ready():
        assert set(references[path]) <= {*registered, path}
        assert readiness.knows(path)
        registered.append(path)
    assert not {*readiness.waiting()} & {
        path for path in references if set(references[path]) <= {*registered, path}
    } - {*registered}


@given(
    failures=st.integers(1, 5000),
    tries=st.integers(1, 5000),
    fraction=st.floats(0, 1, exclude_max=True),
    asked=st.none() | st.floats(0, 100),
)
def test_delays_stay_in_their_bounds(
    failures: int, tries: int, fraction: float, asked: float | None
) -> None:
    schedule = RetrySchedule(tries=tries)
    delay = schedule.delay(failures, fraction=fraction, retry_after=asked)
    if failures >= tries or (asked or 0) > schedule.longest_asked:
        assert delay is None
    else:
        assert delay is not None
        assert (asked or 0) <= delay <= max(schedule.longest, asked or 0)
        assert delay <= (asked or 0) or delay / schedule.base <= 2 ** (failures - 1)
