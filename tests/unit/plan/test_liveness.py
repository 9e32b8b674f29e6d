from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from nixfetch.formats.storepath import StorePath
from nixfetch.plan.liveness import Liveness, Node
from simulated_cache import store_path

if TYPE_CHECKING:
    from collections.abc import Iterable

A, B, C, D, E = map(store_path, "abcde")


def node(
    path: StorePath, *references: StorePath, deriver: StorePath | None = None, registered: int = 0
) -> Node:
    return Node(
        path=path, references=references, deriver=deriver, nar_size=1, registered=registered
    )


def dead(liveness: Liveness) -> list[StorePath]:
    return [path for group in liveness.dead() for path in group]


def test_without_roots_all_are_dead_referrers_first() -> None:
    assert dead(Liveness([node(A), node(B, A), node(C, B, A)])) == [C, B, A]


def test_a_root_keeps_all_that_it_reaches_and_no_referrer() -> None:
    liveness = Liveness([node(A), node(B, A), node(C, B), node(D)])
    liveness.keep([B])
    assert [liveness.is_live(path) for path in (A, B, C, D)] == [True, True, False, False]
    assert set(dead(liveness)) == {C, D}


def test_a_live_path_keeps_its_deriver_and_what_that_refers_to() -> None:
    liveness = Liveness([node(A, deriver=B), node(B, C), node(C), node(D, deriver=B)])
    liveness.keep([A])
    assert dead(liveness) == [D]
    liveness = Liveness([node(A, deriver=B), node(B)])
    liveness.keep([B])  # keep-outputs is off
    assert dead(liveness) == [A]


def test_roots_that_are_not_valid_keep_nothing() -> None:
    liveness = Liveness([node(A, deriver=C)])
    liveness.keep([B])
    assert (A in liveness, B in liveness) == (True, False)
    liveness.keep([A])
    assert dead(liveness) == []


def test_a_hash_part_keeps_the_paths_that_have_it() -> None:
    other = StorePath.parse(f"{A.hash_part}-other")
    liveness = Liveness([node(A, B), node(other), node(B), node(C)])
    liveness.keep_hash_parts([A.hash_part, D.hash_part])
    assert dead(liveness) == [C]


def test_the_oldest_goes_first_of_those_that_may() -> None:
    nodes = [node(A, registered=1), node(B, registered=3), node(C, A, registered=2)]
    assert dead(Liveness(nodes)) == [C, A, B]


def test_a_reference_to_itself_is_no_obstacle() -> None:
    assert dead(Liveness([node(A, A), node(B, B, A)])) == [B, A]


def test_a_circle_goes_at_once_with_what_it_reaches() -> None:
    nodes = [node(A, B), node(B, A, C), node(C), node(D), node(E, A)]
    assert list(Liveness(nodes).dead()) == [(D,), (E,), tuple(sorted([A, B, C]))]


def test_a_root_that_comes_late_saves_what_is_left() -> None:
    liveness = Liveness([node(A), node(B, A), node(C, B), node(D)])
    order = liveness.dead()
    first = {next(order)[0]}
    while C not in first:
        first.add(next(order)[0])
    liveness.keep([B])
    assert {path for group in order for path in group} == {D} - first


def test_sizes_are_known() -> None:
    assert Liveness([node(A)]).nar_size(A) == 1


# Against a slow reference: a path is live when some way leads to it.

PATHS = [store_path(f"p{number}") for number in range(8)]
nodes = st.lists(
    st.tuples(
        st.lists(st.sampled_from(PATHS), max_size=3, unique=True),
        st.none() | st.sampled_from(PATHS),
        st.integers(0, 3),
    ),
    max_size=len(PATHS),
).map(
    lambda rows: [
        Node(
            path=path,
            references=tuple(other for other in references if other in PATHS[: len(rows)]),
            deriver=deriver,
            registered=registered,
        )
        for path, (references, deriver, registered) in zip(PATHS, rows, strict=False)
    ]
)
some = st.lists(st.sampled_from(PATHS), max_size=3)


def is_live(path: StorePath, nodes: list[Node], roots: Iterable[StorePath]) -> bool:
    """By looking at every way of every length."""
    known = {entry.path: entry for entry in nodes}
    reached = set(roots) & known.keys()
    for _ in nodes:
        for other in list(reached):
            reached.update(known[other].references)
            reached.update(entry.path for entry in nodes if entry.path == known[other].deriver)
    return path in reached


@given(nodes=nodes, roots=some, temporary=some)
def test_live_is_what_some_way_leads_to(
    nodes: list[Node], roots: list[StorePath], temporary: list[StorePath]
) -> None:
    liveness = Liveness(nodes)
    liveness.keep(roots)
    liveness.keep_hash_parts(path.hash_part for path in temporary)
    live = {node.path for node in nodes if is_live(node.path, nodes, roots + temporary)}
    assert {node.path for node in nodes if liveness.is_live(node.path)} == live
    order = dead(liveness)
    assert len(order) == len(set(order))
    assert set(order) == {node.path for node in nodes} - live


@given(nodes=nodes, roots=some, late=some, after=st.integers(0, 8))
def test_nothing_goes_while_something_refers_to_it(
    nodes: list[Node], roots: list[StorePath], late: list[StorePath], after: int
) -> None:
    liveness = Liveness(nodes)
    liveness.keep(roots)
    left = {node.path: node for node in nodes}
    for number, group in enumerate(liveness.dead()):
        for path in group:
            del left[path]
        assert not any(set(node.references) & set(group) for node in left.values())
        if number == after:
            liveness.keep(set(late) & left.keys())
    assert all(liveness.is_live(path) for path in left)
