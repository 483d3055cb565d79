"""The block pool: shared blocks are counted, contents are never given away while somebody reads them."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rag.engine.block_pool import BlockPool, Reservation
from rag.engine.scheduler import SequenceState
from rag.interfaces import Sampling

BLOCKS, SIZE = 12, 8
PREFIX = tuple(range(100, 140))


class PoolMachine(RuleBasedStateMachine):
    """A model of the memory beside the pool: what each cell really holds, after copies and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(BLOCKS, SIZE)
        self.cells: list[list[int | None]] = [[None] * SIZE for _ in range(BLOCKS)]
        self.live: list[SequenceState] = []

    @rule(shared=st.integers(0, 40), own=st.lists(st.integers(0, 3), min_size=1, max_size=20), new=st.integers(1, 10))
    def admit(self, shared: int, own: list[int], new: int) -> None:
        prompt = PREFIX[:shared] + tuple(own)
        free = self.pool.available
        reserved = self.pool.reserve(prompt, len(prompt) + new, self.live, 0)
        needed = -(-(len(prompt) + new) // SIZE)
        if reserved is None:
            assert needed > free or free == 0
            assert self.pool.available == free
            return
        assert len(reserved.block_ids) == len(set(reserved.block_ids)) == needed
        assert reserved.num_cached < len(prompt)
        self.apply(reserved)
        sequence = SequenceState(prompt, Sampling(max_new_tokens=new), block_ids=reserved.block_ids)
        for place in range(reserved.num_cached):
            assert self.cells[reserved.block_ids[place // SIZE]][place % SIZE] == prompt[place]
        sequence.num_computed = reserved.num_cached
        self.live.append(sequence)

    def apply(self, reserved: Reservation) -> None:
        if reserved.copy is not None:
            source, target, count = reserved.copy
            self.cells[target][:count] = self.cells[source][:count]

    @precondition(lambda self: self.live)
    @rule(data=st.data(), count=st.integers(1, 30))
    def compute(self, data: st.DataObject, count: int) -> None:
        sequence = data.draw(st.sampled_from(self.live))
        for place in range(sequence.num_computed, min(sequence.num_computed + count, len(sequence.prompt_ids))):
            self.cells[sequence.block_ids[place // SIZE]][place % SIZE] = sequence.prompt_ids[place]
            sequence.num_computed = place + 1

    @precondition(lambda self: self.live)
    @rule(data=st.data(), reusable=st.booleans())
    def release(self, data: st.DataObject, reusable: bool) -> None:
        sequence = data.draw(st.sampled_from(self.live))
        self.live.remove(sequence)
        self.pool.release(sequence, reusable=reusable)

    @invariant()
    def what_a_live_sequence_has_computed_is_still_there(self) -> None:
        for sequence in self.live:
            for place in range(sequence.num_computed):
                assert self.cells[sequence.block_ids[place // SIZE]][place % SIZE] == sequence.prompt_ids[place]

    @invariant()
    def no_more_are_remembered_than_there_are_blocks(self) -> None:
        assert len(self.pool._retired) <= BLOCKS

    @invariant()
    def every_block_is_free_or_held(self) -> None:
        held = {block for sequence in self.live for block in sequence.block_ids}
        assert len(held) + self.pool.available == BLOCKS


TestBlockPool = PoolMachine.TestCase


def test_the_same_prompt_a_hundred_times_is_remembered_once_and_shared_each_time() -> None:
    pool = BlockPool(BLOCKS, SIZE)
    for turn in range(100):
        reserved = pool.reserve(PREFIX, len(PREFIX) + 4, [], 0)
        assert reserved is not None
        assert reserved.num_cached == (len(PREFIX) - 1 if turn else 0)
        sequence = SequenceState(PREFIX, Sampling(max_new_tokens=4), block_ids=reserved.block_ids)
        sequence.num_computed = len(PREFIX)
        pool.release(sequence, reusable=True)
    assert len(pool._retired) == 1
