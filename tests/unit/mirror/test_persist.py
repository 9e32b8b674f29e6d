from __future__ import annotations

import pytest

from nixfetch.errors import TransportError
from nixfetch.mirror.persist import Persistent
from nixfetch.plan.retry import RetrySchedule


class Remote:
    def __init__(self, failures: int, **options: object) -> None:
        self.failures, self.options = failures, options
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise TransportError("busy", **self.options)  # type: ignore[arg-type]
        return "done"


def persistent(slept: list[float]) -> Persistent:
    return Persistent(RetrySchedule(tries=3), sleep=slept.append, fraction=lambda: 0.5)


def test_until_it_is_done() -> None:
    slept: list[float] = []
    assert persistent(slept)(Remote(2, retryable=True)) == "done"
    assert slept == [0.125, 0.25]


def test_not_for_ever() -> None:
    slept: list[float] = []
    with pytest.raises(TransportError) as caught:
        persistent(slept)(Remote(9, retryable=True))
    assert caught.value.facts["tries"] == 3
    assert len(slept) == 2


def test_not_what_does_not_heal() -> None:
    remote = Remote(1, retryable=False)
    with pytest.raises(TransportError):
        persistent([])(remote)
    assert remote.calls == 1


def test_as_long_as_was_asked_for() -> None:
    slept: list[float] = []
    assert persistent(slept)(Remote(1, retryable=True, retry_after=7.0)) == "done"
    assert slept == [7.0]


def test_not_when_it_is_over() -> None:
    persist = Persistent(RetrySchedule())
    persist.close()
    remote = Remote(1, retryable=True)
    with pytest.raises(TransportError):
        persist(remote)
    assert remote.calls == 1
