"""KV blocks: who holds which, and whose contents may serve again. Pure Python: knows no model.

A block is `block_size` tokens of KV memory. Sequences that begin with the same tokens have the same KV there, so a new
one starts from the longest prefix that any sequence, live or retired, has computed: whole blocks are shared and
counted, the rest of a block is copied, or taken over where its owner has retired. A backend whose block is as long as
the context (a slot) is the case without whole blocks.

Free blocks keep their contents until they are given out again, the longest unused first.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

# A shorter common beginning is computed faster than it is found and copied.
SHORTEST_PREFIX_TOKENS = 16
# A retired sequence's block is taken over, not copied, when at most this much beyond the common prefix is lost.
CHEAP_TAIL_TOKENS = 64


class Holder(Protocol):
    """What the pool needs to see of a sequence: its tokens, how many of them are computed, and in which blocks."""

    block_ids: list[int]
    num_computed: int

    def leading_tokens(self, count: int) -> Sequence[int]:
        """The first `count` of prompt and output."""


class Copy(NamedTuple):
    """To do before the next step: the first `num_tokens` cells of block `source` into block `target`."""

    source: int
    target: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """Blocks for a whole sequence, of which the first `num_cached` tokens need no computing once `copy` is done."""

    block_ids: list[int]
    num_cached: int = 0
    copy: Copy | None = None


class Lease:
    """Blocks for a whole context that stay with a conversation between its turns, with what they hold.

    A turn's sequence works in these very blocks, so that only what is new needs computing. Others don't share them: a
    turn may go back and write over what stood there.
    """

    def __init__(self, block_ids: list[int]) -> None:
        self.block_ids = block_ids
        self.num_computed = 0
        self.ended = False
        self._user: Holder | None = None
        self._tokens: Sequence[int] = ()

    def leading_tokens(self, count: int) -> Sequence[int]:
        """The first `count` tokens whose KV the blocks hold."""
        return self._tokens[:count]

    @property
    def in_use(self) -> bool:
        """Whether a turn works in these blocks now."""
        return self._user is not None

    def begin(self, user: Holder) -> None:
        """`user` works in these blocks from now on. What an earlier turn that has not ended yet wrote is unknown."""
        if self._user is not None:
            self.num_computed = 0
        self._user = user

    def end(self, user: Holder, *, reusable: bool) -> None:
        """Remember what `user` has left in the blocks, unless another turn has begun meanwhile."""
        if self._user is user:
            self._user = None
            self.num_computed = user.num_computed if reusable else 0
            self._tokens = user.leading_tokens(self.num_computed)


def everything(_written: int, shared: int) -> int:
    """Of a block whose cells never go round, every common token can be reused."""
    return shared


class BlockPool:
    """All blocks by number. Not thread-safe: the engine holds a lock.

    `reusable(written, shared)` tells from how many of `shared` leading tokens a sequence can go on, where `written`
    tokens have gone into the same cells; a sliding window's ring may have lost them.
    """

    def __init__(self, num_blocks: int, block_size: int, reusable: Callable[[int, int], int] = everything) -> None:
        self.block_size = block_size
        self._reusable = reusable
        self._holders = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._retired: dict[int, Holder] = {}  # by the block in which their tokens end

    @property
    def available(self) -> int:
        """Blocks that no live sequence holds."""
        return len(self._free)

    def reserve(
        self, prompt: Sequence[int], worst_case_tokens: int, live: Iterable[Holder], in_flight_tokens: int
    ) -> Reservation | None:
        """Blocks for `prompt` and its output, or None while there are not enough.

        `in_flight_tokens`: what a step that runs at this moment may add to each live sequence.
        """
        wanted = -(-worst_case_tokens // self.block_size)
        if not self._free:
            return None
        source, shared = self._longest_prefix(prompt, live, in_flight_tokens)
        if source is None:
            return self._fresh(wanted)
        whole, rest = divmod(shared, self.block_size)
        kept = source.block_ids[:whole]
        reclaimed = sum(block in self._free for block in kept)
        if wanted - whole > len(self._free) - reclaimed:
            return None
        for block in kept:
            self._hold(block)
        if not rest:
            return Reservation(kept + self._take(wanted - whole), shared)
        partial = source.block_ids[whole]
        cheap = source.num_computed - shared <= CHEAP_TAIL_TOKENS
        if partial in self._free and (cheap or len(self._free) == wanted - whole):
            self._forget(partial)
            self._hold(partial)
            return Reservation([*kept, partial, *self._take(wanted - whole - 1)], shared)
        if partial in self._free:  # the copy's source must not be given out as its target
            self._free.move_to_end(partial)
        own = self._take(wanted - whole)
        return Reservation(kept + own, shared, Copy(partial, own[0], rest))

    def release(self, holder: Holder, *, reusable: bool) -> None:
        """Take back what `holder` holds; `reusable` keeps its contents for later prefixes."""
        for block in holder.block_ids:
            self._holders[block] -= 1
            if not self._holders[block]:
                self._free[block] = None
        if reusable:
            self._retire(holder)

    def lease(self, tokens: int) -> Lease | None:
        """Blocks for `tokens` that stay until `end_lease`; None while there are not enough."""
        fresh = self._fresh(-(-tokens // self.block_size))
        return None if fresh is None else Lease(fresh.block_ids)

    def resume(self, lease: Lease, user: Holder, prompt: Sequence[int]) -> Reservation:
        """A turn in the lease's own blocks, from the first token of `prompt` that they don't hold."""
        lease.begin(user)
        limit = min(len(prompt) - 1, lease.num_computed)
        shared = _common(prompt, lease, limit) if limit >= SHORTEST_PREFIX_TOKENS else 0
        return Reservation(lease.block_ids, self._reusable(lease.num_computed, shared) if shared else 0)

    def end_lease(self, lease: Lease) -> None:
        """Take the lease's blocks back."""
        lease.num_computed = 0
        self.release(lease, reusable=False)
        lease.block_ids = []

    def _fresh(self, wanted: int) -> Reservation | None:
        return Reservation(self._take(wanted)) if wanted <= len(self._free) else None

    def _longest_prefix(
        self, prompt: Sequence[int], live: Iterable[Holder], in_flight_tokens: int
    ) -> tuple[Holder | None, int]:
        best: Holder | None = None
        longest = SHORTEST_PREFIX_TOKENS - 1
        candidates = [(holder, 0) for holder in self._retired.values()] + [
            (holder, in_flight_tokens) for holder in live
        ]
        for holder, in_flight in candidates:
            # The last prompt token is always computed: its logits choose the first new one.
            limit = min(len(prompt) - 1, holder.num_computed)
            if limit <= longest:
                continue
            common = self._reusable(holder.num_computed + in_flight, _common(prompt, holder, limit))
            if common > longest:
                best, longest = holder, common
        return best, longest if best else 0

    def _take(self, count: int) -> list[int]:
        taken = list(itertools.islice(self._free, count))
        for block in taken:
            self._forget(block)
            self._hold(block)
        return taken

    def _hold(self, block: int) -> None:
        self._free.pop(block, None)
        self._holders[block] += 1

    def _forget(self, block: int) -> None:
        """`block` gets other contents: whoever retired with it keeps what stands in the blocks before it."""
        for last, holder in list(self._retired.items()):
            if block in holder.block_ids and self._retired.get(last) is holder:
                del self._retired[last]
                holder.block_ids = holder.block_ids[: holder.block_ids.index(block)]
                holder.num_computed = min(holder.num_computed, len(holder.block_ids) * self.block_size)
                self._retire(holder)

    def _retire(self, holder: Holder) -> None:
        """Remember `holder`, and forget whoever ended within its blocks: their tokens are the beginning of its own.

        So no more are remembered than there are blocks, however often the same is asked.
        """
        if holder.num_computed < SHORTEST_PREFIX_TOKENS:
            return
        *inner, last = holder.block_ids[: -(-holder.num_computed // self.block_size)]
        holder.block_ids = [*inner, last]
        for block in inner:
            self._retired.pop(block, None)
        other = self._retired.get(last)
        if other is None or other.num_computed < holder.num_computed:
            self._retired[last] = holder


def _common(prompt: Sequence[int], holder: Holder, limit: int) -> int:
    """Length of the common beginning, at most `limit`: by halves, since comparing tuples is far quicker than a loop."""
    tokens = holder.leading_tokens(limit)
    if tokens[:SHORTEST_PREFIX_TOKENS] != prompt[:SHORTEST_PREFIX_TOKENS]:
        return 0
    low, high = SHORTEST_PREFIX_TOKENS, limit
    while low < high:
        middle = (low + high + 1) // 2
        if tokens[low:middle] == prompt[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
