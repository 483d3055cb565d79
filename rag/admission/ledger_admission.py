"""Admission against a ledger in this process: the Plan's blocks and sequences, a queue, and threads that wait in it."""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import dataclass

from typing_extensions import override

from rag.admission import refusals
from rag.admission.admission import Admission, Permit, draining_error, expire_later
from rag.admission.ledger import Ledger, Reservation
from rag.admission.rates import Rates
from rag.admission.wait_estimate import WaitEstimate
from rag.cancellation import Call
from rag.errors import ClientGone, Overloaded, PromptTooLong
from rag.interfaces import Usage

_log = logging.getLogger(__name__)

# The warning about memory use: logged above the first share, and again only after use has fallen below the second.
_WARN_SHARE, _REARM_SHARE = 0.8, 0.7


@dataclass(frozen=True, slots=True)
class Budget:
    """The part of the Plan that requests are counted against: sequences, and blocks with their size."""

    sequences: int
    num_blocks: int
    block_tokens: int
    block_bytes: int
    context_tokens: int

    def blocks(self, tokens: int) -> int:
        """Blocks that hold `tokens`."""
        return -(-tokens // self.block_tokens)

    @property
    def blocks_per_session(self) -> int:
        """Blocks of a whole context."""
        return self.blocks(self.context_tokens)


class LedgerPermit(Permit):
    """A reservation that was granted; `call` is None for a session's."""

    def __init__(self, admission: LedgerAdmission, reservation: Reservation, call: Call | None) -> None:
        self.granted = time.monotonic()
        self.reservation = reservation
        self.call = call
        self._admission = admission

    @override
    def shrink(self, tokens: int) -> None:
        self._admission.shrink(self, tokens)

    @override
    def release(self) -> None:
        self._admission.release(self)


class LedgerAdmission(Admission):
    """The ledger and its queue made thread-safe, with refusals that say when to retry.

    A request above `governed_tokens` has to ask for it (`allow_long_context`), and such requests together hold at most
    `long_share` of the memory. A request waits `longest_wait_s` at most, in a queue of at most `max_waiting`.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        max_waiting: int,
        longest_wait_s: float,
        governed_tokens: int | None = None,
        long_share: float = 1.0,
        rates: Rates | None = None,
    ) -> None:
        self.budget = budget
        self.governed_tokens = min(governed_tokens or budget.context_tokens, budget.context_tokens)
        self._max_waiting = max_waiting
        self._longest_wait_s = longest_wait_s
        self._rates = rates or Rates()
        # At least one long request must be able to run alone, however small the share.
        long_blocks = max(budget.blocks_per_session, int(budget.num_blocks * long_share))
        self._ledger = Ledger(
            budget.num_blocks, most_holders=budget.sequences, long_blocks=min(long_blocks, budget.num_blocks)
        )
        self._lock = threading.Lock()
        self._granted: dict[Reservation, threading.Event] = {}
        self._permits: set[LedgerPermit] = set()
        self._estimate = WaitEstimate(self._ledger, places=budget.sequences + max_waiting)
        self._draining = False
        self._warned = False

    @property
    @override
    def draining(self) -> bool:
        return self._draining

    @override
    def limit_tokens(self, *, allow_long: bool) -> int:
        return self.budget.context_tokens if allow_long else self.governed_tokens

    @override
    def usage(self) -> Usage:
        with self._lock:
            requests = self._requests
            return Usage(
                self._ledger.total_blocks,
                self._ledger.reserved_blocks,
                self.budget.block_bytes,
                requests,
                len(self._permits) - requests,
                len(self._ledger.waiting),
            )

    @override
    def admit(
        self, prompt_tokens: int, new_tokens: int, call: Call, *, deadline_s: float, allow_long: bool = False
    ) -> LedgerPermit:
        tokens = prompt_tokens + new_tokens
        if tokens > self.limit_tokens(allow_long=allow_long):
            raise self.too_long(prompt_tokens, new_tokens, allow_long=allow_long)
        self.check_deadline(0, new_tokens, deadline_s)
        blocks = self.budget.blocks(tokens)
        granted = threading.Event()
        with self._lock:
            if self._draining:
                raise draining_error()
            reservation = self._ledger.join(blocks, is_long=tokens > self.governed_tokens)
            self._granted[reservation] = granted
            self._grant()
            if reservation.state == "waiting":
                limit_s = min(self._longest_wait_s, call.left_s(deadline_s))
                expected_s = self._estimate.until_granted_s(reservation, requests=self._requests)
                if len(self._ledger.waiting) > self._max_waiting or (expected_s or 0.0) > limit_s:
                    self._withdraw(reservation)
                    raise self._overloaded(blocks)
        if reservation.state == "waiting":
            call.on_end(granted.set)
            granted.wait(limit_s)
        with self._lock:
            if reservation.state == "reserved" and not call.cancelled:
                return self._permit(reservation, call)
            self._withdraw(reservation)
            if call.cancelled:
                raise ClientGone("the client has disconnected")
            if self._draining:
                raise draining_error()
            raise self._overloaded(blocks)

    @override
    def admit_session(self) -> LedgerPermit:
        blocks = self.budget.blocks_per_session
        with self._lock:
            if self._draining:
                raise draining_error()
            reservation = self._ledger.join(blocks)
            self._grant()
            if reservation.state == "waiting":
                self._withdraw(reservation)
                raise self._overloaded(blocks)
            self._estimate.session_blocks += blocks
            return self._permit(reservation, None)

    def shrink(self, permit: LedgerPermit, tokens: int) -> None:
        """Implements Permit.shrink."""
        with self._lock:
            is_long = tokens > self.governed_tokens
            self._freed(self._ledger.shrink(permit.reservation, self.budget.blocks(tokens), is_long=is_long))

    def release(self, permit: LedgerPermit) -> None:
        """Implements Permit.release."""
        with self._lock:
            if permit not in self._permits:
                return
            self._permits.remove(permit)
            self._granted.pop(permit.reservation, None)
            freed = self._ledger.release(permit.reservation)
            if permit.call is None:
                self._estimate.session_blocks -= freed
            else:
                self._estimate.held_s.append(time.monotonic() - permit.granted)
            self._freed(freed)

    def lose_a_session(self) -> int:
        """After memory ran out: admit one context less, but always at least one. Returns the sessions left."""
        with self._lock:
            each = self.budget.blocks_per_session
            if self._ledger.total_blocks >= 2 * each:
                self._ledger.lose(each)
            return self._ledger.total_blocks // each

    @override
    def drain(self, grace_s: float) -> None:
        with self._lock:
            self._draining = True
            for reservation in self._ledger.waiting:
                self._granted[reservation].set()
        expire_later(grace_s, self._running_calls)

    @override
    def busy(self) -> Overloaded:
        with self._lock:
            return self._overloaded(1)

    @override
    def check_deadline(self, prompt_tokens: int, new_tokens: int, limit_s: float) -> None:
        least_s = self._rates.least_s(prompt_tokens, new_tokens)
        if least_s > limit_s:
            most = self._rates.most_new_tokens(prompt_tokens, limit_s) or 0
            raise refusals.too_slow(prompt_tokens, new_tokens, least_s=least_s, limit_s=limit_s, most_new_tokens=most)

    @override
    def too_long(self, prompt_tokens: int, new_tokens: int, *, allow_long: bool) -> PromptTooLong:
        tokens = prompt_tokens + new_tokens
        return refusals.too_long(
            prompt_tokens,
            new_tokens,
            limit_tokens=self.limit_tokens(allow_long=allow_long),
            context_tokens=self.budget.context_tokens,
            figures=self._figures(self.budget.blocks(tokens), tokens=tokens, new=new_tokens),
        )

    def _permit(self, reservation: Reservation, call: Call | None) -> LedgerPermit:
        permit = LedgerPermit(self, reservation, call)
        self._permits.add(permit)
        if not self._warned and self._share >= _WARN_SHARE:
            self._warned = True
            used = {"reserved_blocks": self._ledger.reserved_blocks, "total_blocks": self._ledger.total_blocks}
            _log.warning(json.dumps({"event": "kv_above_80_percent", **used, "waiting": len(self._ledger.waiting)}))
        return permit

    def _grant(self) -> None:
        for reservation in self._ledger.grant():
            if reservation in self._granted:
                self._granted[reservation].set()

    def _freed(self, blocks: int) -> None:
        if blocks:
            self._grant()
            self._warned = self._warned and self._share >= _REARM_SHARE

    def _withdraw(self, reservation: Reservation) -> None:
        self._granted.pop(reservation, None)
        self._freed(self._ledger.release(reservation))
        self._grant()  # a request behind it in the queue may fit where this one did not

    def _running_calls(self) -> list[Call]:
        with self._lock:
            return [permit.call for permit in self._permits if permit.call is not None]

    def _overloaded(self, blocks: int) -> Overloaded:
        running, most, waiting = len(self._permits), self._ledger.most_holders, len(self._ledger.waiting)
        return Overloaded(
            f"{running} requests and sessions of at most {most} run and {waiting} wait",
            field="queue",
            value=waiting,
            limit=self._max_waiting,
            remedy="try again after retry_after_s, or deploy with more CONCURRENCY",
            retry_after_s=self._estimate.retry_after_s(blocks, requests=self._requests),
            figures=self._figures(blocks, tokens=blocks * self.budget.block_tokens),
        )

    def _figures(self, blocks: int, *, tokens: int, new: int | None = None) -> dict[str, object]:
        each = self.budget.block_bytes
        free = max(0, self._ledger.free_blocks)
        return {
            "requested": {"context": tokens} if new is None else {"context": tokens, "new_tokens": new},
            "need_bytes": {"kv": blocks * each},
            "have_bytes": free * each,
            "short_by_bytes": max(0, blocks - free) * each,
            "largest_that_fits": {"context": min(self.budget.context_tokens, free * self.budget.block_tokens)},
        }

    @property
    def _requests(self) -> int:
        """Permits of requests; the others are sessions'."""
        return sum(permit.call is not None for permit in self._permits)

    @property
    def _share(self) -> float:
        return self._ledger.reserved_blocks / max(1, self._ledger.total_blocks)
