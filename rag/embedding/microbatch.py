"""Dynamic batching: calls from many threads that arrive while a batch runs are merged into the next batch.

There is no timer: a single call starts at once, and under load batches fill up while the previous one runs. The
function runs on one dedicated thread, so a model that is not thread-safe needs no lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from rag.errors import NotReady

Item = TypeVar("Item")
Result = TypeVar("Result")


class MicroBatcher(Generic[Item, Result]):
    """Run `function` over the items of all waiting calls, at most `max_items` at a time.

    `function` takes a list of items and returns one result per item, in order. Calls are never split: one with more
    than `max_items` items runs alone, as a larger batch.
    """

    def __init__(
        self, function: Callable[[list[Item]], Iterable[Result]], *, max_items: int, name: str = "microbatch"
    ) -> None:
        self._function = function
        self._max_items = max_items
        self._name = name
        self._waiting: deque[tuple[list[Item], Future[list[Result]]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        # A daemon thread: without close() the process can still exit.
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def __call__(self, items: Sequence[Item]) -> list[Result]:
        """One result per item. Blocks until their batch has run.

        Raises NotReady after close(), and whatever `function` raised on the batch with these items.
        """
        if not items:
            return []
        answer: Future[list[Result]] = Future()
        with self._changed:
            if self._closed:
                raise NotReady(f"{self._name} is closed: the server is stopping", remedy="ask another instance")
            self._waiting.append((list(items), answer))
            self._changed.notify()
        return answer.result()

    def close(self) -> None:
        """Finish the queued calls, refuse new ones, and end the thread. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _loop(self) -> None:
        while batch := self._next_batch():
            items = [item for call, _ in batch for item in call]
            try:
                results = list(self._function(items))
                if len(results) != len(items):
                    raise RuntimeError(f"{self._name} gave {len(results)} results for {len(items)} items")  # noqa: TRY301
            except BaseException as error:  # raised in the callers; this thread keeps running
                for _, answer in batch:
                    answer.set_exception(error)
                continue
            start = 0
            for call, answer in batch:
                answer.set_result(results[start : start + len(call)])
                start += len(call)

    def _next_batch(self) -> list[tuple[list[Item], Future[list[Result]]]]:
        """The calls of the next batch; none once closed and drained."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            batch: list[tuple[list[Item], Future[list[Result]]]] = []
            free = self._max_items
            while self._waiting and (not batch or len(self._waiting[0][0]) <= free):
                batch.append(self._waiting.popleft())
                free -= len(batch[-1][0])
            return batch
