from __future__ import annotations

import threading

import pytest

import nixfetch
from snapshotter.turns import Turns

PATIENCE = 30.0  # seconds; none of this takes one


def test_one_at_a_time_for_a_name_and_no_wait_for_others() -> None:
    turns, order = Turns(), list[str]()
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with turns.taking("a"):
            inside.set()
            assert leave.wait(PATIENCE)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(PATIENCE)
    with turns.taking("b"):
        order.append("other")
    leave.set()
    with turns.taking("a"):
        order.append("second")
    thread.join()
    assert order == ["other", "first", "second"]


def test_who_waits_can_give_up() -> None:
    turns = Turns()
    with (
        turns.taking("a"),
        pytest.raises(nixfetch.CancelledError),
        turns.taking("a", cancelled=lambda: True),
    ):
        pytest.fail("two at a time")
    with turns.taking("a", cancelled=lambda: True):  # nobody else has it
        pass


def test_an_error_ends_a_turn() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="mine"), turns.taking("a"):
        raise ValueError("mine")
    with turns.taking("a"):
        pass
