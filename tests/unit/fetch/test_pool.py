from __future__ import annotations

import queue
import threading
import time

import pytest

from nixfetch.fetch.pool import Crash, Pool, next_result


def in_time(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


def test_jobs_run_in_order_and_answer_by_the_queue() -> None:
    results: queue.SimpleQueue[int | Crash] = queue.SimpleQueue()
    pool = Pool[int]("test", 1, results)
    for number in range(5):
        pool.submit(lambda number=number: number)  # type: ignore[misc] # bound now
    assert [results.get(timeout=10) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert pool.pending == 5  # the taker counts down
    assert pool.close(deadline=in_time())


def test_no_more_threads_than_jobs_or_than_allowed() -> None:
    results: queue.SimpleQueue[str | Crash] = queue.SimpleQueue()
    pool = Pool[str]("test-few", 3, results)
    gate = threading.Event()

    def job() -> str:
        gate.wait(10)
        return threading.current_thread().name

    for _ in range(7):
        pool.submit(job)
    gate.set()
    names = {results.get(timeout=10) for _ in range(7)}
    assert names <= {"test-few-1", "test-few-2", "test-few-3"}
    assert pool.close(deadline=in_time())
    assert not any(thread.name.startswith("test-few") for thread in threading.enumerate())


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(1)])
def test_what_a_job_raises_is_a_result(error: BaseException) -> None:
    results: queue.SimpleQueue[Crash | None] = queue.SimpleQueue()
    pool = Pool[None]("test", 2, results)

    def job() -> None:
        raise error

    pool.submit(job)
    assert results.get(timeout=10) == Crash(error)
    pool.submit(lambda: None)
    assert results.get(timeout=10) is None  # the thread lives on
    assert pool.close(deadline=in_time())


def test_closing_waits_until_its_deadline_however_many_are_stuck() -> None:
    results: queue.SimpleQueue[bool | Crash] = queue.SimpleQueue()
    pool = Pool[bool]("test", 5, results)
    gate = threading.Event()
    for _ in range(5):
        pool.submit(lambda: gate.wait(10))
    begin = time.monotonic()
    assert not pool.close(deadline=in_time(0.1))
    assert time.monotonic() - begin < 2
    gate.set()
    assert pool.close(deadline=in_time())


def test_closing_an_idle_pool() -> None:
    assert Pool[None]("test", 5, queue.SimpleQueue()).close(deadline=0.0)


def test_who_waits_for_a_result_looks_up_now_and_then() -> None:
    """A signal that came just before the system's wait is heard when that ends."""
    asked: list[float | None] = []

    class Late(queue.SimpleQueue[str]):
        def get(self, block: bool = True, timeout: float | None = None) -> str:
            asked.append(timeout)
            if len(asked) < 3:
                raise queue.Empty
            return super().get(block, timeout)

    results = Late()
    results.put("result")
    assert next_result(results) == "result"
    assert asked == [1.0, 1.0, 1.0]
