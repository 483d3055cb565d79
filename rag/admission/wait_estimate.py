"""How long until memory is free, from how long requests have held theirs; and when a refused client should retry."""

from __future__ import annotations

import time
from collections import deque

from rag.admission.ledger import Ledger, Reservation

_REMEMBERED_HOLDS = 64
_REMEMBERED_REFUSALS = 4  # for each place to run or to wait in
_SHORTEST_RETRY_S, _LONGEST_RETRY_S = 0.1, 60.0


class WaitEstimate:
    """Estimates over `ledger`, by the mean of `held_s`, the seconds that the latest requests held their memory.

    Holding times, unlike counts per second, do not make the wait look long after an idle hour. Not thread-safe.
    """

    def __init__(self, ledger: Ledger, *, places: int) -> None:
        self.held_s: deque[float] = deque(maxlen=_REMEMBERED_HOLDS)
        self.session_blocks = 0
        self._ledger = ledger
        # When refused clients were asked to retry. Bounded, so that one that keeps asking does not delay all others.
        self._retries: deque[float] = deque(maxlen=_REMEMBERED_REFUSALS * places)

    def until_granted_s(self, reservation: Reservation, *, requests: int) -> float | None:
        """Until everything ahead of `reservation` in the queue fits, and it too; None where nothing was measured."""
        ahead = self._ledger.waiting[: self._ledger.waiting.index(reservation)]
        return self._until_free_s(sum(other.blocks for other in ahead) + reservation.blocks, len(ahead) + 1, requests)

    def retry_after_s(self, blocks: int, *, requests: int) -> float:
        """When a refused request for `blocks` should retry: after the queue, and after those refused before it.

        With the same time for all, all would retry at once, and nearly all be refused again.
        """
        now = time.monotonic()
        while self._retries and self._retries[0] <= now:
            self._retries.popleft()
        ahead = len(self._retries) + 1
        expected_s = self._until_free_s(
            self._ledger.waiting_blocks + ahead * blocks, len(self._ledger.waiting) + ahead, requests
        )
        retry_s = min(max(1.0 if expected_s is None else expected_s, _SHORTEST_RETRY_S), _LONGEST_RETRY_S)
        self._retries.append(now + retry_s)
        return round(retry_s, 2)

    def _until_free_s(self, blocks: int, places: int, requests: int) -> float | None:
        short_blocks = max(0, blocks - self._ledger.free_blocks)
        short_places = max(0, places - self._ledger.free_places)
        if not short_blocks and not short_places:
            return 0.0
        # Requests free their memory within the mean holding time, evenly spread; sessions keep theirs.
        blocks_in_turnover = self._ledger.reserved_blocks - self.session_blocks
        if not self.held_s or not requests or blocks_in_turnover <= 0:
            return None
        turnovers = max(short_blocks / blocks_in_turnover, short_places / requests)
        return turnovers * sum(self.held_s) / len(self.held_s)
