"""Which sequences take part in the next forward pass, and which blocks each holds. Pure Python: knows no model.

A sequence holds blocks for its worst case (prompt + max_new_tokens) from its admission to its end, so no admitted
sequence can run out of memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rag.engine.block_pool import Allocation, BlockPool, Copy, PinnedBlocks, all_shared
from rag.engine.prefix_tree import TOKEN_BYTES, pack
from rag.errors import Overloaded
from rag.interfaces import Sampling


@dataclass(eq=False, slots=True)
class SequenceState:
    """One request: its tokens so far, and how many of them the KV cache already holds."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    output_ids: list[int] = field(default_factory=list)
    num_computed: int = 0
    block_ids: list[int] = field(default_factory=list)
    cancelled: bool = False
    pinned: PinnedBlocks | None = None
    packed_prompt: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.packed_prompt = pack(self.prompt_ids)  # here, since the engine's lock is not held yet

    @property
    def num_tokens(self) -> int:
        """Tokens known so far, prompt and output."""
        return len(self.prompt_ids) + len(self.output_ids)

    @property
    def worst_case_tokens(self) -> int:
        """Tokens that the KV cache may have to hold for this sequence."""
        return len(self.prompt_ids) + self.sampling.max_new_tokens

    def packed(self, count: int) -> bytes:
        """The first `count` tokens of prompt and output, by `prefix_tree.pack`."""
        missing = count - len(self.prompt_ids)
        if missing <= 0:
            return self.packed_prompt[: count * TOKEN_BYTES]
        return self.packed_prompt + pack(self.output_ids[:missing])

    def uncomputed(self, limit: int) -> Sequence[int]:
        """The next at most `limit` tokens that the KV cache lacks."""
        if self.num_computed >= len(self.prompt_ids):
            return self.output_ids[self.num_computed - len(self.prompt_ids) :][:limit]
        return self.prompt_ids[self.num_computed : self.num_computed + limit]


class Work(NamedTuple):
    """A sequence's part in one step: `new_ids` enter the cache at position `start`."""

    sequence: SequenceState
    new_ids: Sequence[int]
    start: int

    @property
    def completes(self) -> bool:
        """Whether the logits of this step's last token choose the next one; else prefill goes on."""
        return self.start + len(self.new_ids) == self.sequence.num_tokens


class Scheduler:
    """First come, first served, within `max_batch_tokens` a step. Not thread-safe: the engine holds a lock."""

    def __init__(
        self,
        *,
        num_blocks: int,
        block_size: int,
        max_batch_tokens: int,
        max_waiting: int,
        whole_prompts: bool = False,
        reusable: Callable[[int, int], int] = all_shared,
    ) -> None:
        self._whole_prompts = whole_prompts
        self.max_batch_tokens = max_batch_tokens
        self.max_waiting = max_waiting
        self.waiting: deque[SequenceState] = deque()
        self.running: list[SequenceState] = []
        self.reused_tokens = 0
        self._copies: list[Copy] = []
        self._pool = BlockPool(num_blocks, block_size, reusable)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.waiting and not self.running

    @property
    def free_blocks(self) -> int:
        """Blocks that no sequence holds."""
        return self._pool.available

    def add(self, sequence: SequenceState) -> None:
        """Start or queue `sequence`. Raises Overloaded when it would have to wait behind `max_waiting` others.

        A sequence in pinned blocks has its memory already and starts at once.
        """
        if sequence.pinned is not None:
            self._start(sequence, self._pool.resume(sequence.pinned, sequence, sequence.packed_prompt))
            return
        self.waiting.append(sequence)
        self._admit()
        if len(self.waiting) > self.max_waiting:
            self.waiting.remove(sequence)
            raise Overloaded(
                f"{len(self.running)} requests run and {len(self.waiting)} wait",
                field="queue",
                value=len(self.waiting),
                limit=self.max_waiting,
                remedy="try again after the time given, or deploy with more CONCURRENCY",
                retry_after_s=1.0,
            )

    def schedule(self) -> list[Work]:
        """The next step: every decode, then prompts in order, in chunks, until the token budget is used."""
        self._admit()
        decodes: list[SequenceState] = []
        prefills: list[SequenceState] = []
        for sequence in self.running:
            (decodes if sequence.num_computed >= len(sequence.prompt_ids) else prefills).append(sequence)
        step = [Work(sequence, sequence.uncomputed(1), sequence.num_computed) for sequence in decodes]
        # Prefill gets a share even where the decodes alone fill the budget: no prompt starves.
        budget = max(self.max_batch_tokens - len(step), self.max_batch_tokens // 4, 1)
        for sequence in prefills:
            if budget <= 0:
                break
            new_ids = sequence.uncomputed(len(sequence.prompt_ids) if self._whole_prompts else budget)
            step.append(Work(sequence, new_ids, sequence.num_computed))
            budget -= len(new_ids)
        return step

    def take_copies(self) -> list[Copy]:
        """What must be copied, in this order, before the step that `schedule` returned. Each is returned once."""
        copies, self._copies = self._copies, []
        return copies

    def remove(self, sequence: SequenceState, *, reusable: bool = True) -> None:
        """End `sequence`, running or waiting, and free its blocks. A second call does nothing.

        `reusable` False drops the contents of its blocks: those of a sequence that failed are unknown.
        """
        if sequence in self.running:
            self.running.remove(sequence)
            if sequence.pinned is None:
                self._pool.release(sequence, reusable=reusable)
            else:
                sequence.pinned.end(sequence, reusable=reusable)
                if sequence.pinned.unpinned and not sequence.pinned.in_use:
                    self._pool.unpin(sequence.pinned)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def pin(self, tokens: int) -> PinnedBlocks | None:
        """Blocks for a conversation of `tokens`, until `unpin`; None while there are not enough."""
        return self._pool.pin(tokens)

    def unpin(self, pinned: PinnedBlocks) -> None:
        """Give pinned blocks back, once the turn that may still run in them has ended."""
        if pinned.unpinned:
            return
        pinned.unpinned = True
        if not pinned.in_use:
            self._pool.unpin(pinned)

    def _admit(self) -> None:
        while self.waiting:
            sequence = self.waiting[0]
            sharers = [running for running in self.running if running.pinned is None]
            allocation = self._pool.reserve(
                sequence.packed_prompt, sequence.worst_case_tokens, sharers, self.max_batch_tokens
            )
            if allocation is None:
                return
            self.waiting.popleft()
            self._start(sequence, allocation)

    def _start(self, sequence: SequenceState, allocation: Allocation) -> None:
        sequence.block_ids = allocation.block_ids
        sequence.num_computed = allocation.num_cached
        self.reused_tokens += allocation.num_cached
        if allocation.copy is not None:
            self._copies.append(allocation.copy)
        self.running.append(sequence)
