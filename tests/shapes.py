"""Random-weight models of common architectures, small enough to be created in a test."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

_COMMON: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**_COMMON),
    "qwen2": Qwen2Config(**_COMMON),
    "qwen3": Qwen3Config(**_COMMON),
    "mistral": MistralConfig(**_COMMON, sliding_window=24),
    "gemma3": Gemma3TextConfig(**_COMMON, sliding_window=24),
    "gpt-oss": GptOssConfig(
        **_COMMON,
        sliding_window=24,
        num_local_experts=4,
        num_experts_per_tok=2,
        rope_parameters={"rope_type": "default"},
    ),
}


def random_model(shape: str, seed: int = 0) -> Any:
    """A float32 model with weights wide enough that its greedy text varies from token to token."""
    torch.manual_seed(seed)
    from_config: Any = AutoModelForCausalLM.from_config  # transformers leaves it untyped
    model = from_config(copy.deepcopy(CONFIGS[shape])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
    return model


def generated_alone(model: Any, prompt: Sequence[int], new_tokens: int) -> list[int]:
    """The reference: greedy text of transformers' own generate, without an end token."""
    ids = torch.tensor([list(prompt)])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, eos_token_id=None
    )
    tokens: list[int] = output[0, -new_tokens:].tolist()
    return tokens
