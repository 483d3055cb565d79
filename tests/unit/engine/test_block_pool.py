"""The block pool: shared blocks are counted, contents in use are never overwritten, and the longest prefix is found."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rag.engine.block_pool import Allocation, BlockPool, all_shared
from rag.engine.prefix_tree import SHORTEST_PREFIX_TOKENS, pack
from rag.engine.scheduler import SequenceState
from rag.interfaces import Sampling

BLOCKS, SIZE = 12, 8
PREFIX = tuple(range(100, 140))


class Ended(NamedTuple):
    """An ended sequence as the reference remembers it: tokens whose KV is in these blocks."""

    tokens: tuple[int, ...]
    block_ids: list[int]


def tokens_of(sequence: SequenceState) -> tuple[int, ...]:
    return (*sequence.prompt_ids, *sequence.output_ids)


def common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


class PoolMachine(RuleBasedStateMachine):
    """Two references beside the pool: what each cell really holds, after copies and writes, and every ended sequence,
    each compared with every prompt."""

    blocks, size, longest_shared = BLOCKS, SIZE, 40

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(self.blocks, self.size, self.reusable)
        self.cells: list[list[int | None]] = [[None] * self.size for _ in range(self.blocks)]
        self.live: list[SequenceState] = []
        self.ended: list[Ended] = []

    @staticmethod
    def reusable(written: int, shared: int) -> int:
        return all_shared(written, shared)

    @rule(shared=st.integers(0, 40), own=st.lists(st.integers(0, 2), min_size=1, max_size=20), new=st.integers(1, 10))
    def admit(self, shared: int, own: list[int], new: int) -> None:
        prompt = PREFIX[: min(shared, self.longest_shared)] + tuple(own)
        free, expected = self.pool.available, self.longest_prefix(prompt)
        reserved = self.pool.reserve(pack(prompt), len(prompt) + new, self.live, 0)
        needed = -(-(len(prompt) + new) // self.size)
        if reserved is None:
            assert needed > free or free == 0
            assert self.pool.available == free
            return
        assert len(reserved.block_ids) == len(set(reserved.block_ids)) == needed
        assert expected <= reserved.num_cached < len(prompt)
        self.apply(reserved)
        sequence = SequenceState(prompt, Sampling(max_new_tokens=new), block_ids=reserved.block_ids)
        for place in range(reserved.num_cached):
            assert self.cells[reserved.block_ids[place // self.size]][place % self.size] == prompt[place]
        sequence.num_computed = reserved.num_cached
        self.live.append(sequence)

    def longest_prefix(self, prompt: tuple[int, ...]) -> int:
        """Brute force: of all that is running or has ended."""
        found = [0]
        live = [tokens_of(sequence)[: sequence.num_computed] for sequence in self.live]
        for tokens in [*live, *(ended.tokens for ended in self.ended)]:
            found.append(self.reusable(len(tokens), common(prompt[:-1], tokens)))
        return max(found) if max(found) >= SHORTEST_PREFIX_TOKENS else 0

    def apply(self, reserved: Allocation) -> None:
        """Copy, and cut what has ended where its blocks will be overwritten."""
        overwritten = set(reserved.block_ids[reserved.num_cached // self.size :])
        for place, (tokens, block_ids) in enumerate(self.ended):
            kept = next((index for index, block in enumerate(block_ids) if block in overwritten), len(block_ids))
            self.ended[place] = Ended(tokens[: kept * self.size], block_ids[:kept])
        if reserved.copy is not None:
            source, target, count = reserved.copy
            self.cells[target][:count] = self.cells[source][:count]

    @precondition(lambda self: self.live)
    @rule(data=st.data(), count=st.integers(1, 30))
    def compute(self, data: st.DataObject, count: int) -> None:
        sequence = data.draw(st.sampled_from(self.live))
        for place in range(sequence.num_computed, sequence.num_computed + count):
            if place == sequence.num_tokens:
                if len(sequence.output_ids) == sequence.sampling.max_new_tokens - 1:
                    break  # the last token of a sequence is never computed
                sequence.output_ids.append(data.draw(st.integers(0, 2)))
            self.cells[sequence.block_ids[place // self.size]][place % self.size] = tokens_of(sequence)[place]
            sequence.num_computed = place + 1

    @precondition(lambda self: self.live)
    @rule(data=st.data(), reusable=st.booleans())
    def release(self, data: st.DataObject, reusable: bool) -> None:
        sequence = data.draw(st.sampled_from(self.live))
        self.live.remove(sequence)
        self.pool.release(sequence, reusable=reusable)
        if reusable:
            self.ended.append(Ended(tokens_of(sequence)[: sequence.num_computed], sequence.block_ids))

    @invariant()
    def what_a_live_sequence_has_computed_is_still_there(self) -> None:
        for sequence in self.live:
            for place, token in enumerate(tokens_of(sequence)[: sequence.num_computed]):
                assert self.cells[sequence.block_ids[place // self.size]][place % self.size] == token

    @invariant()
    def no_more_are_remembered_than_there_are_blocks(self) -> None:
        nodes, pending = 0, list(self.pool._ended._roots.values())
        while pending:
            node = pending.pop()
            assert sorted(node.children) == node.sorted_keys
            assert all(child.parent is node for child in node.children.values())
            assert all(self.pool._ended._nodes[block] is node for block in node.blocks)
            nodes += len(node.blocks)
            pending += node.children.values()
        assert nodes <= len(self.pool._ended._nodes) <= self.blocks

    @invariant()
    def every_block_is_free_or_held(self) -> None:
        held = {block for sequence in self.live for block in sequence.block_ids}
        assert len(held) + self.pool.available == self.blocks


class LongBlocks(PoolMachine):
    """Most prefixes end within a block, among many that continue the same one."""

    blocks, size = 8, 32


class RingSlots(PoolMachine):
    """A block holds a whole sequence and forgets a prefix when too much was written after it."""

    blocks, size, longest_shared = 4, 64, 33

    @staticmethod
    def reusable(written: int, shared: int) -> int:
        return shared if written - shared <= 6 else 0


TestBlockPool = pytest.mark.slow(PoolMachine.TestCase)
TestLongBlocks = pytest.mark.slow(LongBlocks.TestCase)
TestRingSlots = pytest.mark.slow(RingSlots.TestCase)


def run(pool: BlockPool, prompt: tuple[int, ...], new: int = 4) -> int:
    """Tokens that `prompt` needed not compute, as a sequence that ends at once."""
    reserved = pool.reserve(pack(prompt), len(prompt) + new, [], 0)
    assert reserved is not None
    sequence = SequenceState(prompt, Sampling(max_new_tokens=new), block_ids=reserved.block_ids)
    sequence.num_computed = len(prompt)
    pool.release(sequence, reusable=True)
    return reserved.num_cached


def test_the_same_prompt_a_hundred_times_is_remembered_once_and_shared_each_time() -> None:
    pool = BlockPool(BLOCKS, SIZE)
    assert [run(pool, PREFIX) for _ in range(100)] == [0] + 99 * [len(PREFIX) - 1]
    assert len(pool._ended._nodes) == len(PREFIX) // SIZE


def test_a_prefix_is_found_as_long_as_one_of_its_copies_is_left() -> None:
    pool = BlockPool(BLOCKS, SIZE)
    sequences = []
    for _ in range(2):
        reserved = pool.reserve(pack(PREFIX), len(PREFIX), [], 0)
        assert reserved is not None
        sequences.append(SequenceState(PREFIX, Sampling(max_new_tokens=1), block_ids=reserved.block_ids))
    for sequence in sequences:
        sequence.num_computed = len(PREFIX)
        pool.release(sequence, reusable=True)
    other = pool.reserve(pack((1,) * 50), 7 * SIZE, [], 0)  # two blocks were never used: these, and the first copy's
    assert other is not None
    assert set(sequences[0].block_ids) < set(other.block_ids)
    assert run(pool, PREFIX, new=0) == len(PREFIX) - 1


@pytest.mark.parametrize("size", [16, 32])
def test_a_block_that_another_one_continues_is_copied_and_a_last_block_is_taken_over(size: int) -> None:
    pool = BlockPool(BLOCKS, size)
    stem = PREFIX[:20]
    run(pool, stem + (1,) * (2 * size))
    whole, rest = divmod(len(stem), size)
    longer = pool.reserve(pack((*stem, 2, 2)), len(stem) + 9, [], 0)
    assert longer is not None
    assert (longer.num_cached, longer.copy is not None) == (len(stem), True)
    run(pool, (*PREFIX[::-1][:20], 3))
    last = pool.reserve(pack((*PREFIX[::-1][:20], 4)), 22, [], 0)
    assert last is not None
    assert (last.num_cached, last.copy) == (20, None)
    assert rest or whole


def test_the_longest_of_many_tails_of_one_block_is_found() -> None:
    drawn = random.Random(3)
    tails = {tuple(drawn.choices(range(2), k=drawn.randrange(1, 20))) for _ in range(200)}
    for wanted in drawn.sample(sorted(tails), 20):
        pool = BlockPool(2 * len(tails) + 1, 32)
        sequences = []
        for tail in tails - {wanted}:
            reserved = pool.reserve(pack((*PREFIX[:32], *tail)), 64, [], 0)
            assert reserved is not None
            sequences.append(SequenceState((*PREFIX[:32], *tail), Sampling(1), block_ids=reserved.block_ids))
        for sequence in sequences:
            sequence.num_computed = len(sequence.prompt_ids)
            pool.release(sequence, reusable=True)
        assert run(pool, (*PREFIX[:32], *wanted, 9)) == 32 + max(common(wanted, tail) for tail in tails - {wanted})
