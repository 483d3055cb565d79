"""The retry rule that the blocking and the asyncio client share."""

from __future__ import annotations

import random
import time

from rag_client.failures import CallFailed


class Backoff:
    """The waits between the attempts of one call, for at most `patience_s` in all."""

    def __init__(self, patience_s: float) -> None:
        self._end = time.monotonic() + patience_s
        self._pause_s = 0.5

    def wait_s(self, failure: CallFailed) -> float:
        """Seconds until the next attempt. Raises `failure` where it is not retryable or the time is over.

        The server's retry_after_s, else 0.5, 1, 2 … s with jitter.
        """
        wait_s = failure.retry_after_s or self._pause_s * random.uniform(0.5, 1.0)
        if not failure.retryable or time.monotonic() + wait_s > self._end:
            raise failure
        self._pause_s *= 2
        return wait_s
