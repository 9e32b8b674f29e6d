from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixfetch.report.sums import closure_sums


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[list[int]], list[int]]:
    """References, all to lower numbers, and weights."""
    weights = draw(st.lists(st.integers(0, 2**64 - 1), max_size=12))
    references = [
        draw(st.lists(st.integers(0, node - 1), max_size=3)) if node else []
        for node in range(len(weights))
    ]
    return references, weights


def closure(node: int, references: list[list[int]]) -> set[int]:
    return {node}.union(*(closure(reference, references) for reference in references[node]))


@given(graph=graphs(), block=st.integers(1, 14))
def test_each_member_counts_once(graph: tuple[list[list[int]], list[int]], block: int) -> None:
    references, weights = graph
    assert closure_sums(references, weights, block=block) == [
        sum(weights[member] for member in closure(node, references)) for node in range(len(weights))
    ]


@pytest.mark.parametrize(("weights", "sums"), [([], []), ([0, 0], [0, 0])])
def test_nothing_weighs_nothing(weights: list[int], sums: list[int]) -> None:
    assert closure_sums([[] for _ in weights], weights) == sums
