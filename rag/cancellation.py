"""Cancellation and expiry of one request, and the time that it has been running."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Call:
    """Ended by `cancel` when the client has disconnected, or by `expire` when time is up; both run the callbacks.

    Thread-safe. Callbacks run in the thread that ends the call, or at once where it has ended already; each must be
    quick and must not raise.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.cancelled = False
        self.expired = False
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []

    def left_s(self, limit_s: float) -> float:
        """Seconds until `limit_s` after the call began; 0 once they have passed."""
        return max(0.0, self.began + limit_s - time.monotonic())

    def on_end(self, callback: Callable[[], None]) -> None:
        """Run `callback` when the call is cancelled or expires."""
        with self._lock:
            if not (self.cancelled or self.expired):
                self._callbacks.append(callback)
                return
        callback()

    def cancel(self) -> None:
        """The client has disconnected: the answer is not needed."""
        self._end(expired=False)

    def expire(self) -> None:
        """Time is up: the answer ends with the text that it has."""
        self._end(expired=True)

    def _end(self, *, expired: bool) -> None:
        with self._lock:
            if self.cancelled or self.expired:
                return
            self.expired, self.cancelled = expired, not expired
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
