"""The scheduler: no block is lost or held twice, and no prompt starves."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rag.engine.scheduler import Scheduler, SequenceState
from rag.errors import Overloaded
from rag.interfaces import Sampling

BLOCKS, BLOCK_SIZE, BUDGET = 8, 4, 10


_tokens = itertools.count()


def sequence(prompt: int, new: int) -> SequenceState:
    """A request with tokens of no other one, so that no prefix is shared: test_block_pool.py is about those."""
    return SequenceState(tuple(itertools.islice(_tokens, prompt)), Sampling(max_new_tokens=new))


class SchedulerMachine(RuleBasedStateMachine):
    """Requests arrive, run, end and are cancelled in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(num_blocks=BLOCKS, block_size=BLOCK_SIZE, max_batch_tokens=BUDGET, max_waiting=3)
        self.live: list[SequenceState] = []
        self.waited: dict[SequenceState, int] = {}

    @rule(prompt=st.integers(1, 20), new=st.integers(1, 12))
    def add(self, prompt: int, new: int) -> None:
        added = sequence(prompt, new)
        try:
            self.scheduler.add(added)
        except Overloaded:
            assert len(self.scheduler.waiting) == 3
        else:
            self.live.append(added)

    @rule()
    def step(self) -> None:
        works = self.scheduler.schedule()
        assert bool(works) == bool(self.live)
        decodes = sum(len(work.new_ids) == 1 for work in works)
        assert sum(len(work.new_ids) for work in works) <= max(BUDGET, decodes + BUDGET // 4)
        for work in works:
            assert work.new_ids
            assert work.start == work.sequence.num_computed
            assert work.start + len(work.new_ids) <= len(work.sequence.block_ids) * BLOCK_SIZE
            work.sequence.num_computed += len(work.new_ids)
            if work.completes:
                work.sequence.output_ids.append(7)
                if len(work.sequence.output_ids) == work.sequence.sampling.max_new_tokens:
                    self.end(work.sequence)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(self.live)))

    def end(self, ended: SequenceState) -> None:
        self.scheduler.remove(ended)
        self.scheduler.remove(ended)
        self.live.remove(ended)

    @invariant()
    def every_block_is_held_once_or_free(self) -> None:
        held = [block for running in self.scheduler.running for block in running.block_ids]
        assert len(held) == len(set(held))
        assert len(held) + self.scheduler.free_blocks == BLOCKS
        assert all(not waiting.block_ids for waiting in self.scheduler.waiting)


TestScheduler = pytest.mark.slow(SchedulerMachine.TestCase)


@given(prompts=st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_every_prompt_is_computed_once_from_its_beginning_to_its_end(prompts: list[int]) -> None:
    scheduler = Scheduler(num_blocks=4, block_size=64, max_batch_tokens=BUDGET, max_waiting=4)
    sequences = [sequence(size, 1) for size in prompts]
    for one in sequences:
        scheduler.add(one)
    computed: dict[SequenceState, list[int]] = {one: [] for one in sequences}
    while not scheduler.idle:
        for work in scheduler.schedule():
            computed[work.sequence] += work.new_ids
            work.sequence.num_computed += len(work.new_ids)
            if work.completes:
                scheduler.remove(work.sequence)
    assert [computed[one] for one in sequences] == [list(one.prompt_ids) for one in sequences]


def test_prefill_goes_on_even_where_decodes_fill_the_budget() -> None:
    scheduler = Scheduler(num_blocks=20, block_size=64, max_batch_tokens=8, max_waiting=20)
    for _ in range(10):
        decoding = sequence(1, 30)
        scheduler.add(decoding)
    for work in scheduler.schedule():
        work.sequence.num_computed += len(work.new_ids)
        work.sequence.output_ids.append(7)
    scheduler.add(sequence(30, 1))
    while any(not running.output_ids for running in scheduler.running):
        for work in scheduler.schedule():
            work.sequence.num_computed += len(work.new_ids)
            if work.completes:
                work.sequence.output_ids.append(7)


def test_with_no_queue_a_request_runs_or_is_refused() -> None:
    scheduler = Scheduler(num_blocks=1, block_size=64, max_batch_tokens=8, max_waiting=0)
    scheduler.add(sequence(3, 1))
    with pytest.raises(Overloaded):
        scheduler.add(sequence(3, 1))
