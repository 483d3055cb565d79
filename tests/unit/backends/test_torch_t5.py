"""Encoder–decoders of the T5 family over the same engine: text equal to generate, bytes equal to the formula."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, BartConfig, PreTrainedTokenizerFast, T5Config

from capacity import EngineSpec, Request, Workload, check, load_model, this_machine
from rag.backends.torch_t5 import TorchT5
from rag.engine.engine import Engine
from rag.engine.loading import EngineConfig, load_generator
from rag.errors import ModelRefused
from rag.interfaces import Message, Sampling
from tests.shapes import generated_alone
from tests.unit.engine.test_detokenizer import byte_tokenizer
from tests.unit.engine.test_engine import finish

CONTEXT, NEW = 128, 10
T5: dict[str, Any] = {
    "vocab_size": 300,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
SHAPES = {"t5": T5, "flan-t5": {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}}


def random_t5(shape: str) -> Any:
    torch.manual_seed(0)
    from_config: Any = AutoModelForSeq2SeqLM.from_config  # transformers leaves it untyped
    model = from_config(T5Config(**SHAPES[shape])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    return model


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_the_text_of_a_batch_equals_generate_one_by_one(shape: str) -> None:
    drawn = random.Random(2)
    prompts = [[drawn.randrange(2, 300) for _ in range(size)] for size in (1, 3, 17, 40, 64, 100, 9, 17)]
    reference = random_t5(shape)
    engine = Engine(TorchT5(random_t5(shape), max_model_len=CONTEXT), num_blocks=3, max_model_len=CONTEXT)
    try:
        tickets = [engine.submit(prompt, Sampling(max_new_tokens=NEW)) for prompt in prompts]
        answers = [finish(ticket)[0] for ticket in tickets]
        assert answers == [generated_alone(reference, prompt, NEW) for prompt in prompts]
        assert len({tuple(answer) for answer in answers}) > 3
        assert engine.free_blocks == 3
        assert engine.reused_tokens == 0
    finally:
        engine.stop()


def test_kv_bytes_are_two_vectors_for_each_head_layer_and_token_of_prompt_and_answer() -> None:
    backend = TorchT5(random_t5("t5"), max_model_len=CONTEXT)
    assert backend.allocate(5) == 5 * CONTEXT * 2 * 2 * 4 * 8 * 4


def test_a_t5_directory_is_loaded_planned_for_and_prompted_with_text(tmp_path: Path) -> None:
    random_t5("flan-t5").save_pretrained(tmp_path)
    untyped: Any = PreTrainedTokenizerFast
    untyped(tokenizer_object=byte_tokenizer()).save_pretrained(tmp_path)
    engine = EngineSpec(kv_slots=True, kv_dtype="fp32", max_batch_tokens=64)
    verdict = check(Request(load_model(str(tmp_path)), this_machine(), Workload(CONTEXT, 3, encoder_tokens=0), engine))
    generator = load_generator(EngineConfig(str(tmp_path), num_blocks=3, max_waiting=2, context_tokens=CONTEXT))
    try:
        assert generator.engine.kv_bytes == verdict.plan.kv_bytes
        assert verdict.plan.need_bytes["weights"] == generator.engine.backend.weights_bytes
        deltas = list(generator.generate(generator.encode([Message("user", "Olá")]), Sampling(max_new_tokens=5)))
        assert sum(delta.new_tokens for delta in deltas) <= 5
        assert deltas[-1].finish_reason in ("length", "stop")
    finally:
        generator.close()


def test_an_encoder_decoder_of_another_family_is_refused_by_name() -> None:
    config = BartConfig(
        vocab_size=100,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
    )
    from_config: Any = AutoModelForSeq2SeqLM.from_config
    with pytest.raises(ModelRefused, match="bart"):
        TorchT5(from_config(config), max_model_len=CONTEXT)
