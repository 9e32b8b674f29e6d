from __future__ import annotations

import threading
import time

import pytest

from nixfetch.cache.throttle import Throttle


def test_all_wait_for_what_came() -> None:
    slept: list[float] = []
    throttle = Throttle(1000.0, now=lambda: sum(slept), sleep=slept.append)
    for _ in range(10):
        throttle(1000)
    assert sum(slept) == pytest.approx(9.75)


def test_closing_lets_go_of_who_waits() -> None:
    throttle = Throttle(1.0)
    thread = threading.Thread(target=throttle, args=[1_000_000])
    began = time.monotonic()
    thread.start()
    throttle.close()
    thread.join(30)
    assert not thread.is_alive()
    assert time.monotonic() - began < 30
