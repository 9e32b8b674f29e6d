from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixfetch.plan.closure import CycleError
from nixfetch.report.order import references_first
from simulated_cache import store_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nixfetch.formats.storepath import StorePath

PATHS = sorted(store_path(str(number)) for number in range(8))
Graph = dict["StorePath", list["StorePath"]]
graphs = st.dictionaries(
    st.sampled_from(PATHS), st.lists(st.sampled_from(PATHS), max_size=3), max_size=8
)


class _CircleError(Exception):
    """The reference below met one."""


def by_recursion(graph: Mapping[StorePath, list[StorePath]]) -> list[StorePath]:
    """The same in the words of Nix: recursive, over sorted sets."""
    ordered: list[StorePath] = []
    visited: set[StorePath] = set()

    def visit(path: StorePath, parents: frozenset[StorePath]) -> None:
        if path in parents:
            raise _CircleError
        if path in visited:
            return
        visited.add(path)
        for reference in sorted(set(graph[path])):
            if reference != path and reference in graph:
                visit(reference, parents | {path})
        ordered.append(path)

    for path in sorted(graph):
        visit(path, frozenset())
    return ordered


@given(graph=graphs)
def test_order_is_that_of_nix(graph: Graph) -> None:
    try:
        expected = by_recursion(graph)
    except _CircleError:
        with pytest.raises(CycleError):
            references_first(graph)
    else:
        assert references_first(graph) == expected


def test_order_of_keys_does_not_matter() -> None:
    graph: Graph = {path: [] for path in PATHS}
    graph[PATHS[0]] = [PATHS[7], PATHS[0]]
    turned = dict(reversed(graph.items()))
    assert references_first(graph) == references_first(turned) == [PATHS[7], *PATHS[:7]]


def test_a_chain_may_be_long() -> None:
    many = sorted(store_path(f"link{number}") for number in range(5000))
    graph = {path: many[number + 1 : number + 2] for number, path in enumerate(many)}
    assert references_first(graph) == many[::-1]
