"""The engine over the real slot backend, on tiny random models."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import pytest
import torch

from rag.backends.base import Segment
from rag.backends.torch_slots import TorchSlots
from rag.engine.engine import Engine, Ticket
from rag.errors import GenerationFailed, InvalidRequest, ModelRefused, NotReady, Overloaded, PromptTooLong, RagError
from rag.interfaces import Sampling
from tests.shapes import CONFIGS, generated_alone, random_model

SLOTS, CONTEXT, NEW = 3, 192, 12


@cache
def prompts() -> list[list[int]]:
    drawn = random.Random(5)
    return [[drawn.randrange(3, 300) for _ in range(size)] for size in (1, 2, 7, 30, 64, 65, 130, 170)]


@cache
def expected(shape: str) -> list[list[int]]:
    model = random_model(shape)
    return [generated_alone(model, prompt, NEW) for prompt in prompts()]


def engine_of(shape: str = "llama", **settings: Any) -> Engine:
    settings = {"num_blocks": SLOTS, "max_model_len": CONTEXT, "max_batch_tokens": 48, **settings}
    backend = TorchSlots(
        random_model(shape),
        max_model_len=settings["max_model_len"],
        max_chunk_tokens=settings["max_batch_tokens"],
    )
    return Engine(backend, **settings)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = engine_of()
    yield engine
    engine.stop()


def finish(ticket: Ticket) -> tuple[list[int], str]:
    tokens: list[int] = []
    while True:
        event = ticket.events.get(timeout=30)
        if isinstance(event, RagError):
            raise event
        if event.draw is not None:
            tokens.append(event.draw.token)
        if event.finish_reason is not None:
            return tokens, event.finish_reason


@pytest.mark.parametrize("shape", sorted(CONFIGS))
def test_greedy_text_of_a_batch_equals_generate_one_by_one(shape: str) -> None:
    engine = engine_of(shape)
    try:
        tickets = [engine.submit(prompt, Sampling(max_new_tokens=NEW)) for prompt in prompts()]
        assert [finish(ticket) for ticket in tickets] == [(tokens, "length") for tokens in expected(shape)]
        assert engine.free_blocks == SLOTS
    finally:
        engine.stop()


@pytest.mark.parametrize("chunk", [1, 13, 512])
def test_the_size_of_a_prefill_chunk_does_not_change_the_text(chunk: int) -> None:
    engine = engine_of(max_batch_tokens=chunk)
    try:
        tickets = [engine.submit(prompt, Sampling(max_new_tokens=NEW)) for prompt in prompts()[:6]]
        assert [finish(ticket)[0] for ticket in tickets] == expected("llama")[:6]
    finally:
        engine.stop()


def test_a_request_that_joins_late_or_is_cancelled_does_not_change_the_others(engine: Engine) -> None:
    first = engine.submit(prompts()[3], Sampling(max_new_tokens=NEW))
    cancelled = engine.submit(prompts()[7], Sampling(max_new_tokens=20))
    first.events.get(timeout=30)
    late = engine.submit(prompts()[4], Sampling(max_new_tokens=NEW))
    cancelled.cancel()
    assert finish(cancelled)[1] == "cancelled"
    assert finish(late)[0] == expected("llama")[4]
    assert finish(first)[0] == expected("llama")[3][1:]
    assert engine.free_blocks == SLOTS


def test_an_end_token_stops_the_text_and_is_not_part_of_it() -> None:
    text = expected("llama")[3]
    engine = engine_of(eos_ids=[text[4]])
    try:
        tokens, reason = finish(engine.submit(prompts()[3], Sampling(max_new_tokens=NEW)))
        assert reason == "stop"
        assert tokens == text[: text.index(text[4])]
    finally:
        engine.stop()


def test_a_seed_gives_the_same_text_alone_and_in_a_batch(engine: Engine) -> None:
    seeded = Sampling(max_new_tokens=NEW, temperature=1.0, top_p=0.9, seed=11)
    alone, _ = finish(engine.submit(prompts()[3], seeded))
    others = [
        engine.submit(prompt, Sampling(max_new_tokens=NEW, temperature=1.5, seed=seed))
        for seed, prompt in enumerate(prompts()[:2])
    ]
    assert finish(engine.submit(prompts()[3], seeded))[0] == alone
    for ticket in others:
        finish(ticket)
    other = Sampling(max_new_tokens=NEW, temperature=1.0, top_p=0.9, seed=12)
    assert finish(engine.submit(prompts()[3], other))[0] != alone


def test_top_k_one_is_greedy_at_any_temperature(engine: Engine) -> None:
    sampling = Sampling(max_new_tokens=NEW, temperature=5.0, top_k=1)
    assert finish(engine.submit(prompts()[2], sampling))[0] == expected("llama")[2]


@pytest.mark.parametrize(
    ("prompt", "sampling", "error", "field"),
    [
        ([], Sampling(max_new_tokens=1), InvalidRequest, "query"),
        ([300], Sampling(max_new_tokens=1), InvalidRequest, "prompt"),
        ([-1], Sampling(max_new_tokens=1), InvalidRequest, "prompt"),
        ([5], Sampling(max_new_tokens=0), InvalidRequest, "max_new_tokens"),
        ([5], Sampling(max_new_tokens=CONTEXT), PromptTooLong, "max_new_tokens"),
    ],
)
def test_what_the_model_cannot_run_is_refused_before_it_is_queued(
    engine: Engine, prompt: list[int], sampling: Sampling, error: type[RagError], field: str
) -> None:
    with pytest.raises(error) as raised:
        engine.submit(prompt, sampling)
    assert raised.value.field == field
    assert engine.free_blocks == SLOTS


def test_a_full_queue_refuses_with_a_time_to_retry_after() -> None:
    engine = engine_of(num_blocks=1, max_waiting=2)
    try:
        tickets = [engine.submit(prompts()[3], Sampling(max_new_tokens=60)) for _ in range(3)]
        with pytest.raises(Overloaded) as raised:
            engine.submit(prompts()[3], Sampling(max_new_tokens=60))
        assert raised.value.retry_after_s
        for ticket in tickets:
            ticket.cancel()
            finish(ticket)
        assert engine.free_blocks == 1
    finally:
        engine.stop()


def test_a_stopped_engine_fails_waiting_requests_and_refuses_new_ones(engine: Engine) -> None:
    ticket = engine.submit(prompts()[6], Sampling(max_new_tokens=60))
    engine.stop()
    with pytest.raises(GenerationFailed):
        finish(ticket)
    with pytest.raises(NotReady):
        engine.submit(prompts()[0], Sampling(max_new_tokens=1))


class Poisoned:
    """A backend that wraps another and fails on one token, by an exception or by NaN logits."""

    POISON = 299
    whole_prompts = False

    def __init__(self, inner: TorchSlots, kind: str) -> None:
        self.inner, self.kind = inner, kind
        self.block_size, self.vocab_size = inner.block_size, inner.vocab_size
        self.weights_bytes = inner.weights_bytes

    def allocate(self, num_blocks: int) -> int:
        return self.inner.allocate(num_blocks)

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        self.inner.copy(source, target, num_tokens)

    def reusable(self, written: int, shared: int) -> int:
        return self.inner.reusable(written, shared)

    def step(self, segments: Sequence[Segment]) -> torch.Tensor:
        hit = [self.POISON in segment.new_ids for segment in segments]
        if self.kind == "exception" and any(hit):
            raise RuntimeError("poison")
        logits = self.inner.step(segments).clone()
        logits[torch.tensor(hit)] = float("nan")
        return logits


@pytest.mark.parametrize("kind", ["exception", "nan"])
def test_a_poisoned_request_fails_alone(kind: str) -> None:
    backend = Poisoned(TorchSlots(random_model("llama"), max_model_len=CONTEXT), kind)
    engine = Engine(backend, num_blocks=SLOTS, max_model_len=CONTEXT)
    try:
        clean = prompts()[3]
        good = [engine.submit(clean, Sampling(max_new_tokens=NEW)) for _ in range(2)]
        bad = engine.submit([Poisoned.POISON], Sampling(max_new_tokens=NEW))
        with pytest.raises(GenerationFailed):
            finish(bad)
        assert [finish(ticket)[0] for ticket in good] == [expected("llama")[3]] * 2
        assert engine.alive
    finally:
        engine.stop()


def test_kv_bytes_are_the_formula_s() -> None:
    engine = engine_of(num_blocks=5)
    try:
        layers, kv_heads, head_dim, float32_bytes = 3, 2, 16, 4
        assert engine.kv_bytes == 5 * CONTEXT * layers * kv_heads * (head_dim + head_dim) * float32_bytes
    finally:
        engine.stop()


def test_a_model_whose_logits_differ_over_slots_is_refused_by_name() -> None:
    model = random_model("llama")
    original = model.model.rotary_emb.forward
    # positions that depend on the length of the batch, as some models compute them
    model.model.rotary_emb.forward = lambda x, position_ids: original(x, position_ids * x.shape[1])
    with pytest.raises(ModelRefused, match="LlamaForCausalLM"):
        TorchSlots(model, max_model_len=CONTEXT).allocate(2)


def test_an_encoder_decoder_is_refused_by_name() -> None:
    model = random_model("llama")
    model.config.is_encoder_decoder = True
    with pytest.raises(ModelRefused, match="encoder"):
        TorchSlots(model, max_model_len=CONTEXT)


def test_an_idle_engine_uses_no_cpu(engine: Engine) -> None:
    before = time.thread_time_ns() + time.process_time_ns()
    time.sleep(0.2)
    assert time.thread_time_ns() + time.process_time_ns() - before < 100_000_000
