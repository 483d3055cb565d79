"""Calls from many threads are merged into batched calls on one thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rag.embedding.microbatch import MicroBatcher
from rag.errors import NotReady


class Doubler:
    """Doubles numbers once `gate` is set, and records its batches. Raises ValueError for 13."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.gate.set()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.threads.add(threading.current_thread().name)
        self.entered.release()
        assert self.gate.wait(5)
        if 13 in items:
            raise ValueError("unlucky")
        return [2 * item for item in items]


@pytest.fixture
def doubler() -> Doubler:
    return Doubler()


@pytest.fixture
def batcher(doubler: Doubler) -> Iterator[MicroBatcher[int, int]]:
    batcher = MicroBatcher(doubler, max_items=4, name="doubler")
    yield batcher
    doubler.gate.set()
    batcher.close()


def wait_for_waiting(batcher: MicroBatcher[int, int], calls: int) -> None:
    """Block until `calls` calls are queued behind the running one."""
    pause = threading.Event()
    for _ in range(500):
        if len(batcher._waiting) == calls:
            return
        pause.wait(0.01)
    raise AssertionError(f"{len(batcher._waiting)} calls wait, not {calls}")


def test_a_single_call_runs_at_once_as_its_own_batch(batcher: MicroBatcher[int, int], doubler: Doubler) -> None:
    assert batcher([1, 2]) == [2, 4]
    assert doubler.batches == [[1, 2]]
    assert doubler.threads == {"doubler"}


def test_calls_that_arrive_while_a_batch_runs_share_the_next_one(
    batcher: MicroBatcher[int, int], doubler: Doubler
) -> None:
    doubler.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(batcher, [1])
        assert doubler.entered.acquire(timeout=5)
        others = [pool.submit(batcher, [n]) for n in range(2, 6)]
        wait_for_waiting(batcher, 4)
        doubler.gate.set()
        assert first.result(5) == [2]
        assert [other.result(5) for other in others] == [[4], [6], [8], [10]]
    assert [sorted(batch) for batch in doubler.batches] == [[1], [2, 3, 4, 5]]


def test_a_batch_exceeds_max_items_only_for_a_single_larger_call(
    batcher: MicroBatcher[int, int], doubler: Doubler
) -> None:
    doubler.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(batcher, [0])]
        assert doubler.entered.acquire(timeout=5)
        for waiting, items in enumerate(([1, 2, 3], [4, 5], [6], [7] * 9, [8]), start=1):
            calls.append(pool.submit(batcher, items))
            wait_for_waiting(batcher, waiting)
        doubler.gate.set()
        for call in calls:
            call.result(5)
    assert doubler.batches == [[0], [1, 2, 3], [4, 5, 6], [7] * 9, [8]]


def test_an_error_is_raised_in_the_callers_of_its_batch_only(batcher: MicroBatcher[int, int], doubler: Doubler) -> None:
    doubler.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        before = pool.submit(batcher, [1])
        assert doubler.entered.acquire(timeout=5)
        broken = [pool.submit(batcher, [13])]
        wait_for_waiting(batcher, 1)
        broken.append(pool.submit(batcher, [2, 3, 4]))
        wait_for_waiting(batcher, 2)
        after = pool.submit(batcher, [5])
        wait_for_waiting(batcher, 3)
        doubler.gate.set()
        assert before.result(5) == [2]
        for call in broken:
            with pytest.raises(ValueError, match="unlucky"):
                call.result(5)
        assert after.result(5) == [10]
    assert batcher([6]) == [12], "the thread still runs"


def test_a_wrong_number_of_results_is_an_error_for_all_callers() -> None:
    batcher: MicroBatcher[int, int] = MicroBatcher(lambda items: items[:-1], max_items=4)
    with pytest.raises(RuntimeError, match="1 results for 2 items"):
        batcher([1, 2])
    batcher.close()


def test_close_finishes_queued_calls_and_refuses_later_ones(batcher: MicroBatcher[int, int], doubler: Doubler) -> None:
    doubler.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        running = pool.submit(batcher, [1])
        assert doubler.entered.acquire(timeout=5)
        waiting = pool.submit(batcher, [2])
        wait_for_waiting(batcher, 1)
        closing = pool.submit(batcher.close)
        doubler.gate.set()
        closing.result(5)
        assert (running.result(5), waiting.result(5)) == ([2], [4])
    assert not batcher._thread.is_alive()
    with pytest.raises(NotReady):
        batcher([3])
    batcher.close()


def test_no_items_need_no_call_of_the_function(batcher: MicroBatcher[int, int], doubler: Doubler) -> None:
    assert batcher([]) == []
    assert doubler.batches == []


def test_every_one_of_32_threads_gets_its_own_results(batcher: MicroBatcher[int, int]) -> None:
    def ask(n: int) -> bool:
        return all(batcher([n, n + i]) == [2 * n, 2 * (n + i)] for i in range(20))

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(ask, range(100, 132)))
