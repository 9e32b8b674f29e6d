from __future__ import annotations

import pytest

from snapshotter.errors import UnavailableError
from snapshotter.strategy import AGAIN, Auto


class Containerd:
    def __init__(self, *answers: tuple[int, int, int] | None) -> None:
        self.answers = list(answers)

    def version(self) -> tuple[int, int, int]:
        answer = self.answers.pop(0)
        if answer is None:
            raise UnavailableError("down")
        return answer


@pytest.mark.parametrize(
    ("version", "mode"),
    [
        ((1, 6, 20), "lower"),
        ((1, 6, 99), "lower"),
        ((1, 7, 0), "target"),
        ((2, 1, 9), "target"),
    ],
)
def test_targets_since_containerd_1_7(version: tuple[int, int, int], mode: str) -> None:
    assert Auto(Containerd(version).version)() == mode


def test_what_works_with_all_is_what_an_unknown_one_gets() -> None:
    auto = Auto(Containerd(None, (2, 1, 9)).version)
    assert auto() == "lower"
    assert auto() == "target"  # it is asked again at once


def test_an_answer_holds_for_a_while() -> None:
    now = [0.0]
    containerd = Containerd((1, 6, 20), (2, 1, 9), None)
    auto = Auto(containerd.version, now=lambda: now[0])
    assert [auto(), auto()] == ["lower", "lower"]
    now[0] = AGAIN - 0.1
    assert auto() == "lower"
    now[0] = AGAIN
    assert auto() == "target"  # containerd was replaced
    now[0] = 3 * AGAIN
    assert auto() == "target"  # it does not answer now
    assert containerd.answers == []
