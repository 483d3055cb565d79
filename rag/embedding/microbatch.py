"""Calls from many threads, made one batched call: whatever arrives while a batch runs goes into the next one.

There is no timer: a lone call starts at once, and under load the batches fill by themselves. The batched function runs
on one thread of its own, so a model that is not thread-safe needs no lock. Knows nothing about models.
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

    `function` takes a list of items and returns one result an item, in order. A call with more than `max_items`
    items is the one that gets a batch of its own, larger than that.
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
        # A daemon: a caller that forgets close() must not keep the process from ending.
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def __call__(self, items: Sequence[Item]) -> list[Result]:
        """The results of `items`, one each. Blocks until their batch has run.

        Raises NotReady after close(), and otherwise what `function` raised on the batch that held these items.
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
        """Answer what is already waiting, take nothing more, and end the thread. May be called twice."""
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
            except BaseException as error:  # it belongs to the callers, the thread must live on
                for _, answer in batch:
                    answer.set_exception(error)
                continue
            start = 0
            for call, answer in batch:
                answer.set_result(results[start : start + len(call)])
                start += len(call)

    def _next_batch(self) -> list[tuple[list[Item], Future[list[Result]]]]:
        """The calls that go together next; none once closed and drained."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            batch: list[tuple[list[Item], Future[list[Result]]]] = []
            room = self._max_items
            while self._waiting and (not batch or len(self._waiting[0][0]) <= room):
                batch.append(self._waiting.popleft())
                room -= len(batch[-1][0])
            return batch
