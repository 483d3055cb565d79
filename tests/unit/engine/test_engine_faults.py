"""Faults of the engine: out of memory, a failed loop; and conversations that keep their blocks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from rag.backends.torch_slots import TorchSlots
from rag.engine.engine import Engine
from rag.errors import GenerationFailed, NotReady, OutOfMemory, Overloaded
from rag.interfaces import Sampling
from tests.shapes import random_model
from tests.unit.engine.test_engine import finish

CONTEXT, SLOTS = 192, 3
GREEDY = Sampling(max_new_tokens=8)
PROMPT = [7, 9, 30, 41, 55, 60, 71, 82, 93, 104, 115, 126, 137, 148, 159, 170, 181, 192, 203, 214]


@pytest.fixture(params=["llama", "gemma3"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    backend = TorchSlots(random_model(request.param), max_model_len=CONTEXT, max_chunk_tokens=48)
    engine = Engine(backend, num_blocks=SLOTS, max_model_len=CONTEXT, max_batch_tokens=48)
    yield engine
    engine.stop()


def break_step(engine: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception, *, on_token: int) -> None:
    """Make every step with `on_token` fail."""
    real = engine.backend.step

    def step(segments: Any) -> torch.Tensor:
        if any(on_token in segment.new_ids for segment in segments):
            raise error
        return real(segments)

    monkeypatch.setattr(engine.backend, "step", step)


def test_out_of_memory_fails_one_request_by_its_own_error_and_the_others_go_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = finish(engine.submit(PROMPT, GREEDY))
    calls: list[int] = []
    engine.on_out_of_memory = lambda: calls.append(1)
    break_step(engine, monkeypatch, torch.OutOfMemoryError("CUDA out of memory"), on_token=299)
    greedy, failing = engine.submit(PROMPT, GREEDY), engine.submit([*PROMPT[:10], 299], GREEDY)
    with pytest.raises(OutOfMemory) as raised:
        finish(failing)
    assert raised.value.retryable
    assert finish(greedy) == expected
    assert calls
    assert engine.free_blocks == SLOTS


def test_a_failed_cpu_allocation_counts_as_out_of_memory(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    message = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried ..."
    break_step(engine, monkeypatch, RuntimeError(message), on_token=299)
    with pytest.raises(OutOfMemory):
        finish(engine.submit([299, 5], GREEDY))


def test_a_failed_loop_ends_waiting_requests_and_a_new_engine_runs_in_the_same_memory(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = finish(engine.submit(PROMPT, GREEDY))

    def broken() -> None:
        raise RuntimeError("the schedule is lost")

    monkeypatch.setattr(engine._scheduler, "schedule", broken)
    with pytest.raises(GenerationFailed):
        finish(engine.submit(PROMPT, GREEDY))
    until = time.monotonic() + 5
    while engine.alive:
        assert time.monotonic() < until
    with pytest.raises(NotReady):
        engine.submit(PROMPT, GREEDY)
    rebuilt = engine.rebuilt()
    try:
        assert rebuilt.kv_bytes == engine.kv_bytes
        assert finish(rebuilt.submit(PROMPT, GREEDY)) == expected
    finally:
        rebuilt.stop()


def test_a_turn_computes_only_what_its_conversation_adds(engine: Engine) -> None:
    alone_first = finish(engine.submit(PROMPT, GREEDY))
    second = [*PROMPT, *alone_first[0], 40, 41, 42]
    alone_second = finish(engine.submit(second, GREEDY))
    pinned = engine.pin_blocks()
    assert finish(engine.submit(PROMPT, GREEDY, pinned)) == alone_first
    others = [engine.submit([token] * 60, Sampling(max_new_tokens=20)) for token in (11, 12, 13, 14)]
    for other in others:  # they overwrite every other block meanwhile
        finish(other)
    before = engine.reused_tokens
    assert finish(engine.submit(second, GREEDY, pinned)) == alone_second
    # The last new token of a turn is known but not yet computed.
    assert engine.reused_tokens - before == len(PROMPT) + len(alone_first[0]) - 1
    engine.unpin_blocks(pinned)
    assert engine.free_blocks == SLOTS


def test_a_turn_from_an_earlier_point_of_the_conversation_is_computed_from_there(engine: Engine) -> None:
    changed = [*PROMPT[:18], 250, 251, 252]
    expected = finish(engine.submit(changed, GREEDY))
    pinned = engine.pin_blocks()
    finish(engine.submit([*PROMPT, 1, 2, 3], GREEDY, pinned))
    assert finish(engine.submit(changed, GREEDY, pinned)) == expected
    engine.unpin_blocks(pinned)


def test_a_turn_right_after_a_cancelled_one_reuses_nothing_of_it(engine: Engine) -> None:
    long = [*PROMPT, *range(20, 100)]
    expected = finish(engine.submit(PROMPT, GREEDY))
    pinned = engine.pin_blocks()
    for _ in range(5):
        finish(engine.submit(PROMPT, GREEDY, pinned))
        engine.submit([*PROMPT[:17], *long], Sampling(max_new_tokens=60), pinned).cancel()
        assert finish(engine.submit(PROMPT, GREEDY, pinned)) == expected
    engine.unpin_blocks(pinned)


def test_pinned_blocks_are_not_free_until_they_are_unpinned_and_their_turn_has_ended(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag.engine.engine._LONGEST_PIN_WAIT_S", 0.05)
    pinned = [engine.pin_blocks() for _ in range(SLOTS)]
    assert engine.free_blocks == 0
    with pytest.raises(Overloaded):
        engine.pin_blocks()
    running = engine.submit(PROMPT, Sampling(max_new_tokens=100), pinned[0])
    engine.unpin_blocks(pinned[0])  # while its turn runs: the blocks are free when that is over, not before
    assert engine.free_blocks == 0
    finish(running)
    for one in pinned[1:]:
        engine.unpin_blocks(one)
        engine.unpin_blocks(one)
    assert engine.free_blocks == SLOTS
