"""The permit before the work: every generation reserves its worst case of KV memory here, waits for it, or is refused.

The ledger counts against the Plan's blocks and sequences. Whoever can't be served learns why, by how much, what would
help, and when to come back, computed from how fast memory has been given back lately.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from rag.admission.ledger import Ledger, Reservation
from rag.admission.rates import Rates
from rag.cancellation import Call
from rag.errors import ClientGone, Draining, Overloaded, PromptTooLong

_log = logging.getLogger(__name__)

_REMEMBERED_HOLDS = 64
_REMEMBERED_REFUSALS = 4  # for each place to run or to wait in
_SHORTEST_RETRY_S, _LONGEST_RETRY_S = 0.1, 60.0
_WARNED_SHARE, _CALM_SHARE = 0.8, 0.7


@dataclass(frozen=True, slots=True)
class Budget:
    """The Plan's part that requests are counted against: sequences, and blocks of so many tokens and bytes each."""

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


@dataclass(frozen=True, slots=True)
class Usage:
    """The ledger at one moment. `total_blocks` is the Plan's, less what was lost to a shortage of memory."""

    total_blocks: int
    reserved_blocks: int
    block_bytes: int
    requests: int
    sessions: int
    waiting: int


class Permit:
    """Blocks that one request, or one session, may use until `release`."""

    def __init__(self, admission: Admission, reservation: Reservation, call: Call | None, waited_s: float) -> None:
        self.waited_s = waited_s
        self.granted = time.monotonic()
        self.reservation = reservation
        self.call = call
        self._admission = admission

    def shrink(self, tokens: int) -> None:
        """Give back what the worst case held beyond `tokens`, prompt and output together."""
        self._admission.shrink(self, tokens)

    def release(self) -> None:
        """Give everything back. May be called again."""
        self._admission.release(self)


class Admission:
    """The ledger with its line, made safe for threads, and the refusals.

    A request beyond `governed_tokens` has to say so (`allow_long_context`), and such requests hold at most `long_share`
    of the memory together. Nobody waits longer than `longest_wait_s`, nor in a line of more than `max_waiting`.
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
        self._arrived: dict[Reservation, threading.Event] = {}
        self._permits: set[Permit] = set()
        self._holds_s: deque[float] = deque(maxlen=_REMEMBERED_HOLDS)
        # When those who were refused will be back. Bounded, lest one who does not wait makes it late for all others.
        self._due: deque[float] = deque(maxlen=_REMEMBERED_REFUSALS * (budget.sequences + max_waiting))
        self._session_blocks = 0
        self._draining = False
        self._warned = False

    def limit_tokens(self, *, allow_long: bool) -> int:
        """Tokens that prompt and output may have together."""
        return self.budget.context_tokens if allow_long else self.governed_tokens

    def usage(self) -> Usage:
        """What is reserved now, and by how many."""
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

    def admit(
        self, prompt_tokens: int, new_tokens: int, call: Call, *, deadline_s: float, allow_long: bool = False
    ) -> Permit:
        """Reserve prompt and output, after waiting where that helps. `deadline_s` counts from the call's beginning.

        Raises Overloaded with the time to come back, PromptTooLong for what can never fit or never end in time,
        Draining, or ClientGone; nothing is held then.
        """
        tokens = prompt_tokens + new_tokens
        if tokens > self.limit_tokens(allow_long=allow_long):
            raise self.too_long(prompt_tokens, new_tokens, allow_long=allow_long)
        self.refuse_endless(0, new_tokens, deadline_s)
        blocks = self.budget.blocks(tokens)
        arrived = threading.Event()
        began = time.monotonic()
        with self._lock:
            if self._draining:
                raise _draining()
            reservation = self._ledger.join(blocks, is_long=tokens > self.governed_tokens)
            self._arrived[reservation] = arrived
            self._grant()
            if reservation.state == "waiting":
                patience_s = min(self._longest_wait_s, call.left_s(deadline_s))
                expected_s = self._expected_wait_s(reservation)
                if len(self._ledger.waiting) > self._max_waiting or (expected_s or 0.0) > patience_s:
                    self._forget(reservation)
                    raise self._overloaded(blocks)
        if reservation.state == "waiting":
            call.on_end(arrived.set)
            arrived.wait(patience_s)
        with self._lock:
            if reservation.state == "reserved" and not call.cancelled:
                permit = Permit(self, reservation, call, time.monotonic() - began)
                self._permits.add(permit)
                self._warn()
                return permit
            self._forget(reservation)
            if call.cancelled:
                raise ClientGone("the client has gone")
            if self._draining:
                raise _draining()
            raise self._overloaded(blocks)

    def admit_session(self) -> Permit:
        """Reserve a whole context for a session; there is no line for these. Raises Overloaded or Draining."""
        blocks = self.budget.blocks_per_session
        with self._lock:
            if self._draining:
                raise _draining()
            reservation = self._ledger.join(blocks)
            self._grant()
            if reservation.state == "waiting":
                self._forget(reservation)
                raise self._overloaded(blocks)
            permit = Permit(self, reservation, None, 0.0)
            self._permits.add(permit)
            self._session_blocks += blocks
            self._warn()
            return permit

    def shrink(self, permit: Permit, tokens: int) -> None:
        """See Permit.shrink."""
        with self._lock:
            is_long = tokens > self.governed_tokens
            self._freed(self._ledger.shrink(permit.reservation, self.budget.blocks(tokens), is_long=is_long))

    def release(self, permit: Permit) -> None:
        """See Permit.release."""
        with self._lock:
            if permit not in self._permits:
                return
            self._permits.remove(permit)
            self._arrived.pop(permit.reservation, None)
            freed = self._ledger.release(permit.reservation)
            if permit.call is None:
                self._session_blocks -= freed
            else:
                self._holds_s.append(time.monotonic() - permit.granted)
            self._freed(freed)

    def lose_a_session(self) -> int:
        """After memory ran out: count with one context less, but never with none. Returns the sessions left."""
        with self._lock:
            each = self.budget.blocks_per_session
            if self._ledger.total_blocks >= 2 * each:
                self._ledger.lose(each)
            return self._ledger.total_blocks // each

    def drain(self, grace_s: float) -> None:
        """Take nothing on any more, turn away who waits, and end what still runs in `grace_s` seconds."""
        with self._lock:
            self._draining = True
            waiting = [self._arrived[reservation] for reservation in self._ledger.waiting]
        for arrived in waiting:
            arrived.set()
        timer = threading.Timer(grace_s, self._expire)
        timer.daemon = True
        timer.start()

    @property
    def draining(self) -> bool:
        """Whether `drain` was called."""
        return self._draining

    def busy(self) -> Overloaded:
        """The refusal where not even a place in the line is left."""
        with self._lock:
            return self._overloaded(1)

    def refuse_endless(self, prompt_tokens: int, new_tokens: int, limit_s: float) -> None:
        """Raises PromptTooLong for work that even at the best rates seen here can't end within `limit_s`."""
        least_s = self._rates.least_s(prompt_tokens, new_tokens)
        if least_s <= limit_s:
            return
        most = self._rates.most_new_tokens(prompt_tokens, limit_s) or 0
        raise PromptTooLong(
            f"{prompt_tokens} prompt tokens and {new_tokens} new ones take at least {least_s:.0f} s here, and "
            f"{limit_s:.0f} s are left",
            field="max_new_tokens",
            value=new_tokens,
            limit=most,
            remedy="ask for fewer max_new_tokens, or stream: a stream may take longer",
            figures={"fixes": [_fix("max_new_tokens", most)] if most else []},
        )

    def too_long(self, prompt_tokens: int, new_tokens: int, *, allow_long: bool) -> PromptTooLong:
        """The refusal of a request that this deployment will never hold, with each change that would help."""
        limit, context = self.limit_tokens(allow_long=allow_long), self.budget.context_tokens
        tokens = prompt_tokens + new_tokens
        fixes = []
        if prompt_tokens < limit:
            fixes.append(_fix("max_new_tokens", limit - prompt_tokens))
        if limit < tokens <= context:
            fixes.append(_fix("allow_long_context", True))
        fixes.append({"deploy": {"CONTEXT": tokens}, "effect": "a context that holds this request"})
        governed = "the governed context" if limit < context else "the context"
        return PromptTooLong(
            f"{prompt_tokens} prompt tokens and {new_tokens} new ones exceed {governed} of {limit}",
            field="query" if prompt_tokens >= limit else "max_new_tokens",
            value=f"{tokens} tokens",
            limit=f"{limit} tokens",
            remedy=_in_words(fixes[0]),
            figures={**self._figures(self.budget.blocks(tokens), tokens=tokens, new=new_tokens), "fixes": fixes},
        )

    def _grant(self) -> None:
        for reservation in self._ledger.grant():
            if reservation in self._arrived:
                self._arrived[reservation].set()

    def _freed(self, blocks: int) -> None:
        if blocks:
            self._grant()
            self._warned = self._warned and self._share >= _CALM_SHARE

    def _forget(self, reservation: Reservation) -> None:
        self._arrived.pop(reservation, None)
        self._freed(self._ledger.release(reservation))
        self._grant()  # whoever stood behind may fit where this one did not

    def _expire(self) -> None:
        with self._lock:
            calls = [permit.call for permit in self._permits if permit.call is not None]
        for call in calls:
            call.expire()

    def _expected_wait_s(self, reservation: Reservation) -> float | None:
        """Until everything ahead in the line and this one fits."""
        ahead = self._ledger.waiting[: self._ledger.waiting.index(reservation)]
        return self._seconds_to_free(sum(other.blocks for other in ahead) + reservation.blocks, len(ahead) + 1)

    def _seconds_to_free(self, blocks: int, places: int) -> float | None:
        short_blocks = max(0, blocks - self._ledger.free_blocks)
        short_places = max(0, places - self._ledger.free_places)
        if not short_blocks and not short_places:
            return 0.0
        # What requests hold is given back within the time that they usually hold it, evenly spread.
        blocks_in_turnover = self._ledger.reserved_blocks - self._session_blocks
        if not self._holds_s or not self._requests or blocks_in_turnover <= 0:
            return None
        turnovers = max(short_blocks / blocks_in_turnover, short_places / self._requests)
        return turnovers * sum(self._holds_s) / len(self._holds_s)

    def _overloaded(self, blocks: int) -> Overloaded:
        running, waiting = len(self._permits), len(self._ledger.waiting)
        now = time.monotonic()
        while self._due and self._due[0] <= now:
            self._due.popleft()
        # Whoever was refused before comes before: told the same time, all would be back at once, mostly for nothing.
        before = len(self._due)
        expected_s = self._seconds_to_free(self._ledger.waiting_blocks + (before + 1) * blocks, waiting + before + 1)
        retry_s = min(max(1.0 if expected_s is None else expected_s, _SHORTEST_RETRY_S), _LONGEST_RETRY_S)
        self._due.append(now + retry_s)
        return Overloaded(
            f"{running} requests and sessions of at most {self._ledger.most_holders} run and {waiting} wait",
            field="queue",
            value=waiting,
            limit=self._max_waiting,
            remedy="try again after retry_after_s, or deploy with more CONCURRENCY",
            retry_after_s=round(retry_s, 2),
            figures=self._figures(blocks, tokens=blocks * self.budget.block_tokens),
        )

    def _figures(self, blocks: int, *, tokens: int, new: int | None = None) -> dict[str, Any]:
        each = self.budget.block_bytes
        free = max(0, self._ledger.free_blocks)
        requested = {"context": tokens} if new is None else {"context": tokens, "new_tokens": new}
        return {
            "requested": requested,
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

    def _warn(self) -> None:
        if not self._warned and self._share >= _WARNED_SHARE:
            self._warned = True
            used = {"reserved_blocks": self._ledger.reserved_blocks, "total_blocks": self._ledger.total_blocks}
            _log.warning(json.dumps({"event": "kv_above_80_percent", **used, "waiting": len(self._ledger.waiting)}))


def _draining() -> Draining:
    return Draining(
        "the container is stopping", field="phase", value="draining", remedy="send it again", retry_after_s=1.0
    )


def _fix(name: str, value: object) -> dict[str, Any]:
    return {"set": {name: value}}


def _in_words(fix: dict[str, Any]) -> str:
    ((name, value),) = (fix.get("set") or fix["deploy"]).items()
    told = "true" if value is True else value
    return f"set {name} to {told}" if "set" in fix else f"shorten the question, or deploy with {name}={told}"
