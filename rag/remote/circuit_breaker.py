"""A circuit breaker: after several failures in a row a service gets no requests for a while, then one trial request.

closed → open after `failures` in a row → after `cool_off_s` one trial → closed, or open again. Independent of HTTP.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class CircuitBreaker:
    """Decides whether a service may be asked. Thread-safe; `clock` gives seconds."""

    def __init__(
        self, *, failures: int = 3, cool_off_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._failures = failures
        self._cool_off_s = cool_off_s
        self._clock = clock
        self._in_a_row = 0
        self._opened_at: float | None = None
        self._trying = False
        self._lock = threading.Lock()

    @property
    def retry_after_s(self) -> float:
        """Seconds until the next trial; 0 while closed."""
        opened_at = self._opened_at
        return 0.0 if opened_at is None else max(0.0, opened_at + self._cool_off_s - self._clock())

    def permits(self) -> bool:
        """Whether a request may be sent now; if so, its outcome is reported by `succeeded` or `failed`."""
        with self._lock:
            if self._opened_at is None:
                return True
            if self._trying or self._clock() < self._opened_at + self._cool_off_s:
                return False
            self._trying = True
            return True

    def succeeded(self) -> None:
        """The service answered, with whatever status."""
        with self._lock:
            self._in_a_row = 0
            self._opened_at = None
            self._trying = False

    def failed(self) -> None:
        """The service did not answer."""
        with self._lock:
            self._in_a_row += 1
            if self._trying or self._in_a_row >= self._failures:
                self._opened_at = self._clock()
                self._trying = False
