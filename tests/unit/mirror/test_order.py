from __future__ import annotations

from nixfetch.mirror.order import Publication
from simulated_cache import store_path

A, B, C, D = map(store_path, "abcd")


def test_what_lacks_nothing_goes_at_once() -> None:
    order = Publication()
    assert order.finished(A, []) == [A]
    assert order.finished(B, [B]) == [B]
    assert not order.has(A)


def test_a_referrer_waits_for_the_last_of_its_references() -> None:
    order = Publication()
    assert order.finished(D, [A, B, D]) == []
    assert order.finished(C, [D]) == []
    assert order.waiting() == [D, C]
    assert order.published(A) == []
    assert order.published(B) == [D]
    assert order.published(B) == []
    assert order.waiting() == [C]
    assert order.published(D) == [C]
    assert order.waiting() == []
    assert order.has(D)
    assert order.finished(store_path("e"), [A, D]) == [store_path("e")]
