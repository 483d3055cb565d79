"""Greedy text equals transformers' generate, token by token in float32, for any schedule of requests.

The schedule is drawn: when each request joins, which are cancelled and when, the chunk size, the memory. Every model
shape runs, on both backends for decoders; prompts have 1 to 700 tokens and many share a prefix, so KV is copied and
taken over all the time.
"""

from __future__ import annotations

import random
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.backends.base import Backend, Segment
from rag.backends.choice import BLOCK_TOKENS
from rag.backends.openvino_paged import OpenVinoPaged
from rag.backends.torch_slots import TorchSlots
from rag.engine.scheduler import Scheduler, SequenceState
from rag.interfaces import Sampling
from tests.shapes import CONFIGS, generated_alone, random_model

NEW, CONTEXT, MOST_SESSIONS = 4, 720, 4


@cache
def prompts() -> list[tuple[int, ...]]:
    drawn = random.Random(7)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(drawn.randrange(3, 300) for _ in range(count))

    system, passages = tokens(40), tokens(150)
    return [
        tokens(1),
        tokens(5),
        tokens(700),
        system + tokens(3),
        system + tokens(30),
        system + passages + tokens(12),
        system + passages + tokens(60),
        system + passages,
        system[:20] + tokens(200),
    ]


@cache
def expected(shape: str) -> list[list[int]]:
    model = random_model(shape)
    return [generated_alone(model, prompt, NEW) for prompt in prompts()]


@cache
def paged(shape: str) -> OpenVinoPaged:
    """Compiled once: the contents that one schedule leaves in the blocks must not change the next."""
    backend = OpenVinoPaged(random_model(shape), max_model_len=CONTEXT, threads=2)
    backend.allocate(MOST_SESSIONS * -(-CONTEXT // BLOCK_TOKENS))
    return backend


def slots(shape: str, chunk: int, sessions: int) -> TorchSlots:
    backend = TorchSlots(random_model(shape), max_model_len=CONTEXT, max_chunk_tokens=chunk)
    backend.allocate(sessions)
    return backend


REQUESTS = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 12), st.none() | st.integers(0, 10)), min_size=2, max_size=6
)


@pytest.mark.parametrize("kind", ["slots", "paged"])
@pytest.mark.slow
@pytest.mark.parametrize("shape", sorted(CONFIGS))
@settings(max_examples=4, deadline=None)
@given(requests=REQUESTS, chunk=st.sampled_from([32, 256]), sessions=st.integers(1, MOST_SESSIONS))
def test_any_schedule_gives_the_text_of_each_request_alone(
    shape: str, kind: str, requests: list[tuple[int, int, int | None]], chunk: int, sessions: int
) -> None:
    """`requests`: which prompt, the step it joins at, and how many steps later it is cancelled, if at all."""
    backend: Backend = paged(shape) if kind == "paged" else slots(shape, chunk, sessions)
    num_blocks = sessions * -(-CONTEXT // backend.block_size)
    scheduler = Scheduler(
        num_blocks=num_blocks,
        block_size=backend.block_size,
        max_batch_tokens=chunk,
        max_waiting=len(requests),
        reusable=backend.reusable,
    )
    joining = sorted(((join, which, leave) for which, join, leave in requests), key=lambda request: request[0])
    leaving: dict[SequenceState, int] = {}
    known: dict[SequenceState, int] = {}
    finished: list[SequenceState] = []
    step = 0
    while joining or not scheduler.idle:
        while joining and joining[0][0] <= step:
            _, which, leave = joining.pop(0)
            sequence = SequenceState(prompts()[which], Sampling(max_new_tokens=NEW))
            known[sequence] = which
            if leave is not None:
                leaving[sequence] = step + leave
            scheduler.add(sequence)
        for sequence in [one for one, when in leaving.items() if when <= step]:
            scheduler.remove(sequence)
            del leaving[sequence]
        works = scheduler.schedule()
        for copy in scheduler.take_copies():
            backend.copy(*copy)
        if works:
            logits = backend.step([Segment(work.new_ids, work.start, work.sequence.block_ids) for work in works])
            for work, token in zip(works, logits.argmax(dim=-1).tolist(), strict=True):
                work.sequence.num_computed += len(work.new_ids)
                if work.completes:
                    work.sequence.output_ids.append(token)
                    if len(work.sequence.output_ids) == NEW:
                        scheduler.remove(work.sequence)
                        leaving.pop(work.sequence, None)
                        finished.append(work.sequence)
        step += 1
    assert scheduler.free_blocks == num_blocks
    for sequence, which in known.items():
        assert sequence.output_ids == expected(shape)[which][: len(sequence.output_ids)]
    assert all(len(sequence.output_ids) == NEW for sequence in finished)


def test_a_repeated_prefix_is_not_computed_again() -> None:
    """The third prompt is the first again; the second has taken over its slot, since little was lost by that."""
    backend = TorchSlots(random_model("llama"), max_model_len=CONTEXT)
    backend.allocate(3)
    scheduler = Scheduler(
        num_blocks=3, block_size=CONTEXT, max_batch_tokens=512, max_waiting=9, reusable=backend.reusable
    )
    computed = []
    for which in (5, 6, 5):
        sequence = SequenceState(prompts()[which], Sampling(max_new_tokens=1))
        scheduler.add(sequence)
        (work,) = scheduler.schedule()
        for copy in scheduler.take_copies():
            backend.copy(*copy)
        backend.step([Segment(work.new_ids, work.start, sequence.block_ids)])
        sequence.num_computed += len(work.new_ids)
        scheduler.remove(sequence)
        computed.append(len(work.new_ids))
    assert computed == [202, 60, 12]
    assert scheduler.reused_tokens == 190 + 190
