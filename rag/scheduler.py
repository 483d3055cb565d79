"""Which sequences take part in the next forward pass, and who holds which blocks. Pure Python: knows no model.

A block is the unit of KV memory. A sequence holds blocks for its worst case (prompt + max_new_tokens) from its
admission to its end, so nothing that was admitted can ever run out of memory. A backend may make a block as large as
the whole context; then a block is a slot, and every sequence holds exactly one.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rag.errors import Overloaded
from rag.seams import Sampling


class BlockPool:
    """Free blocks by number. The lowest go out first, so that live slots stay close together at the front."""

    def __init__(self, num_blocks: int) -> None:
        self._free = list(range(num_blocks))

    @property
    def available(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    def allocate(self, count: int) -> list[int]:
        """`count` blocks; the caller has checked `available`."""
        return [heapq.heappop(self._free) for _ in range(count)]

    def free(self, blocks: Iterable[int]) -> None:
        """Take `blocks` back."""
        for block in blocks:
            heapq.heappush(self._free, block)


@dataclass(eq=False, slots=True)
class SequenceState:
    """One request on its way: its tokens so far, and how many of them the KV cache already holds."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    output_ids: list[int] = field(default_factory=list)
    num_computed: int = 0
    block_ids: list[int] = field(default_factory=list)
    cancelled: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens known so far, prompt and output."""
        return len(self.prompt_ids) + len(self.output_ids)

    @property
    def worst_case_tokens(self) -> int:
        """Tokens that the KV cache may have to hold for this sequence."""
        return len(self.prompt_ids) + self.sampling.max_new_tokens

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
        """Whether the logits of this step's last token choose the next one (else the prompt goes on)."""
        return self.start + len(self.new_ids) == self.sequence.num_tokens


class Scheduler:
    """First come, first served, within `max_batch_tokens` a step. Not thread-safe: the engine holds a lock."""

    def __init__(self, *, num_blocks: int, block_size: int, max_batch_tokens: int, max_waiting: int) -> None:
        self.block_size = block_size
        self.max_batch_tokens = max_batch_tokens
        self.max_waiting = max_waiting
        self.waiting: deque[SequenceState] = deque()
        self.running: list[SequenceState] = []
        self._pool = BlockPool(num_blocks)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.waiting and not self.running

    @property
    def free_blocks(self) -> int:
        """Blocks that no sequence holds."""
        return self._pool.available

    def add(self, sequence: SequenceState) -> None:
        """Start or queue `sequence`. Raises Overloaded when it would have to wait behind `max_waiting` others."""
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
        # A prompt always moves on, even where the decodes alone fill the budget: nobody may starve.
        budget = max(self.max_batch_tokens - len(step), self.max_batch_tokens // 4, 1)
        for sequence in prefills:
            if budget <= 0:
                break
            new_ids = sequence.uncomputed(budget)
            step.append(Work(sequence, new_ids, sequence.num_computed))
            budget -= len(new_ids)
        return step

    def remove(self, sequence: SequenceState) -> None:
        """End `sequence`, wherever it stands, and free its blocks. A second call does nothing."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._pool.free(sequence.block_ids)
            sequence.block_ids = []
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def _admit(self) -> None:
        while self.waiting:
            blocks = -(-self.waiting[0].worst_case_tokens // self.block_size)
            if blocks > self._pool.available:
                return
            sequence = self.waiting.popleft()
            sequence.block_ids = self._pool.allocate(blocks)
            self.running.append(sequence)
