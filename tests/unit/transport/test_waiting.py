from __future__ import annotations

import pytest

from nixfetch.transport.base import Pace
from nixfetch.transport.waiting import SlowRemoteError, Waiting

PACE = Pace(stall=10, slowest=100)


def test_enough_bytes_begin_anew() -> None:
    waiting = Waiting(PACE)
    for _ in range(100):
        waiting.count(9, 1000)
        assert waiting.left == 10


def test_a_few_bytes_buy_no_time() -> None:
    waiting = Waiting(PACE)
    waiting.count(6, 500)
    assert waiting.left == 4
    with pytest.raises(SlowRemoteError, match="too slow") as caught:
        waiting.count(4, 100)
    assert caught.value.retryable


def test_silence() -> None:
    waiting = Waiting(PACE)
    waiting.count(20, 0)  # the end of a body, however late, is no complaint
    assert str(waiting.too_long()).startswith("remote went silent")
    assert waiting.left is not None
    assert 0 < waiting.left < 0.1


def test_without_limit() -> None:
    waiting = Waiting(Pace(stall=None))
    waiting.count(1e9, 1)
    assert waiting.left is None
