"""KV blocks: which sequence holds which, and which contents can be used again. Pure Python: knows no model.

A block is `block_size` tokens of KV memory. Sequences with the same leading tokens have the same KV there, so a new one
starts from the longest prefix that any sequence, running or ended, has computed: whole blocks are shared and
reference-counted, the rest of a block is copied, or the block is taken over where its sequence has ended. In a backend
whose block is as long as the context (a slot) there are no whole blocks to share.

Free blocks keep their contents until they are given out again, the least recently used first.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from rag.engine.prefix_tree import SHORTEST_PREFIX_TOKENS, TOKEN_BYTES, Prefix, PrefixTree, common_tokens

# An ended sequence's block is taken over, not copied, when at most this many tokens beyond the prefix are lost by it.
CHEAP_TAIL_TOKENS = 64


class BlockUser(Protocol):
    """What the pool reads of a sequence: its tokens, how many of them are computed, and in which blocks."""

    block_ids: list[int]
    num_computed: int

    def packed(self, count: int) -> bytes:
        """The first `count` tokens of prompt and output, by `prefix_tree.pack`."""


class Copy(NamedTuple):
    """To do before the next step: copy the first `num_tokens` cells of block `source` into block `target`."""

    source: int
    target: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Allocation:
    """Blocks for a whole sequence, of which the first `num_cached` tokens need no computing once `copy` is done."""

    block_ids: list[int]
    num_cached: int = 0
    copy: Copy | None = None


class PinnedBlocks:
    """Blocks for a whole context that a conversation keeps between its turns, with their contents.

    A turn's sequence works in these blocks, so that only what is new needs computing. Other sequences don't share them:
    a turn may start from an earlier point and overwrite what follows it.
    """

    def __init__(self, block_ids: list[int]) -> None:
        self.block_ids = block_ids
        self.num_computed = 0
        self.unpinned = False
        self._user: BlockUser | None = None
        self._tokens = b""

    @property
    def in_use(self) -> bool:
        """Whether a turn works in these blocks now."""
        return self._user is not None

    def begin(self, user: BlockUser, prompt: bytes) -> int:
        """`user` works in these blocks from now on. Returns the length of the prefix of `prompt` that they hold.

        What an earlier turn that has not ended yet wrote is unknown: the prefix is then empty.
        """
        held = self.num_computed if self._user is None else 0
        self._user, self.num_computed = user, held
        shared = common_tokens(prompt[:-TOKEN_BYTES], self._tokens[: held * TOKEN_BYTES])
        return shared if shared >= SHORTEST_PREFIX_TOKENS else 0

    def end(self, user: BlockUser, *, reusable: bool) -> None:
        """Remember what `user` has left in the blocks, unless another turn has begun meanwhile."""
        if self._user is user:
            self._user = None
            self.num_computed = user.num_computed if reusable else 0
            self._tokens = user.packed(self.num_computed)


def all_shared(_written: int, shared: int) -> int:
    """Every common token can be used again: there is no ring buffer, so positions never wrap."""
    return shared


class BlockPool:
    """All blocks by number. Not thread-safe: the engine holds a lock.

    `reusable(written, shared)` returns from how many of `shared` leading tokens a sequence can go on, where `written`
    tokens have gone into the same blocks: a sliding window's ring buffer may have overwritten them.
    """

    def __init__(self, num_blocks: int, block_size: int, reusable: Callable[[int, int], int] = all_shared) -> None:
        self._block_size = block_size
        self._reusable = reusable
        self._users = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._ended = PrefixTree(block_size, reusable)

    @property
    def available(self) -> int:
        """Blocks that no running sequence holds."""
        return len(self._free)

    def reserve(
        self, prompt: bytes, worst_case_tokens: int, running: Iterable[BlockUser], in_flight_tokens: int
    ) -> Allocation | None:
        """Blocks for a packed prompt and its output, or None while there are not enough.

        `in_flight_tokens`: how many the step that runs at this moment may add to each running sequence.
        """
        wanted = -(-worst_case_tokens // self._block_size)
        if not self._free:
            return None
        prefix = self._longest_prefix(prompt[:-TOKEN_BYTES], running, in_flight_tokens)
        if prefix is None:
            return self._fresh(wanted)
        whole, rest = divmod(prefix.num_tokens, self._block_size)
        kept = list(prefix.block_ids[:whole])
        reclaimed = sum(block in self._free for block in kept)
        if wanted - whole > len(self._free) - reclaimed:
            return None
        for block in kept:
            self._hold(block)
        if not rest:
            return Allocation(kept + self._take(wanted - whole), prefix.num_tokens)
        partial = prefix.block_ids[whole]
        cheap = prefix.lost_tokens is not None and prefix.lost_tokens <= CHEAP_TAIL_TOKENS
        if partial in self._free and (cheap or len(self._free) == wanted - whole):
            self._ended.forget(partial)
            self._hold(partial)
            return Allocation([*kept, partial, *self._take(wanted - whole - 1)], prefix.num_tokens)
        if partial in self._free:  # the copy's source must not be given out as its target
            self._free.move_to_end(partial)
        own = self._take(wanted - whole)
        return Allocation(kept + own, prefix.num_tokens, Copy(partial, own[0], rest))

    def release(self, user: BlockUser, *, reusable: bool) -> None:
        """Take back the blocks of `user`; `reusable` keeps their contents for later prompts."""
        self._release(user.block_ids)
        if reusable:
            self._ended.remember(user.packed(user.num_computed), user.block_ids)

    def pin(self, tokens: int) -> PinnedBlocks | None:
        """Blocks for `tokens` that stay until `unpin`; None while there are not enough."""
        fresh = self._fresh(-(-tokens // self._block_size))
        return None if fresh is None else PinnedBlocks(fresh.block_ids)

    def resume(self, pinned: PinnedBlocks, user: BlockUser, prompt: bytes) -> Allocation:
        """A turn in pinned blocks, from the first token of `prompt` that they don't hold."""
        shared = pinned.begin(user, prompt)
        return Allocation(pinned.block_ids, self._reusable(pinned.num_computed, shared) if shared else 0)

    def unpin(self, pinned: PinnedBlocks) -> None:
        """Take the blocks back, without their contents."""
        self._release(pinned.block_ids)
        pinned.block_ids, pinned.num_computed = [], 0

    def _fresh(self, wanted: int) -> Allocation | None:
        return Allocation(self._take(wanted)) if wanted <= len(self._free) else None

    def _longest_prefix(self, tokens: bytes, running: Iterable[BlockUser], in_flight_tokens: int) -> Prefix | None:
        best = self._ended.find(tokens)
        longest = SHORTEST_PREFIX_TOKENS - 1 if best is None else best.num_tokens
        for user in running:
            limit = min(len(tokens) // TOKEN_BYTES, user.num_computed)
            # Only a sequence that shares more than the longest so far is compared as a whole.
            if limit <= longest or not tokens.startswith(user.packed(longest + 1)):
                continue
            common = common_tokens(tokens, user.packed(limit))
            shared = self._reusable(user.num_computed + in_flight_tokens, common)
            if shared > longest:
                best, longest = Prefix(user.block_ids, shared), shared
        return best

    def _take(self, count: int) -> list[int]:
        taken = list(itertools.islice(self._free, count))
        for block in taken:
            self._ended.forget(block)
            self._hold(block)
        return taken

    def _hold(self, block: int) -> None:
        self._free.pop(block, None)
        self._users[block] += 1

    def _release(self, block_ids: Sequence[int]) -> None:
        for block in block_ids:
            self._users[block] -= 1
            if not self._users[block]:
                self._free[block] = None
