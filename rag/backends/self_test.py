"""Whether a backend computes what the model computes. Models known to fail are refused early, others by a self-test.

A backend runs `probe_ids` through the unchanged model and over its own KV memory, and the logits are compared.
"""

from __future__ import annotations

from typing import Any

import torch

from rag.errors import ModelRefused

# The largest difference from the model's own logits that the self-test accepts, as a share of their standard deviation:
# rounding depends on the dtype, a wrong mask or position is of the order of one.
_SELF_TEST_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}


def held_bytes(model: Any) -> int:
    """Bytes of all parameters and buffers, tied ones once."""
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}.values())


def probe_ids(vocab_size: int, most: int, wanted: int = 24) -> list[int]:
    """A fixed prompt for self-tests, spread over the vocabulary: `wanted` tokens, but no more than `most`."""
    return [(7919 * position + 11) % vocab_size for position in range(min(wanted, most))]


def difference(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference of two rows of logits, as a share of the expected ones' standard deviation."""
    return float((logits - expected).abs().max() / expected.std())


def refuse_different(model: Any, logits: torch.Tensor, expected: torch.Tensor) -> None:
    """Raise ModelRefused where logits over slots differ from the model's own by more than rounding."""
    found = difference(logits, expected)
    limit = _SELF_TEST_TOLERANCE.get(model.dtype, 1e-1)
    if not found <= limit:  # a NaN must fail too
        raise ModelRefused(
            f"{type(model).__name__} gives other logits over KV slots than on its own",
            field="LLM",
            value=f"difference {found:.2g} of the logits' spread",
            limit=limit,
            remedy="choose another model; this one's attention needs more than keys, values, window, cap and sinks",
        )


def refuse_unsupported(model: Any, max_model_len: int) -> None:
    """Raise ModelRefused for a model known not to run over KV slots, before any memory is allocated."""
    config = model.config
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    rope = getattr(text, "rope_parameters", None) or {}
    rope_types = {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)}
    reason = None
    if getattr(config, "is_encoder_decoder", False):
        reason = "it is an encoder–decoder"
    elif not kinds <= {"full_attention", "sliding_attention"}:
        reason = f"its layers are {', '.join(sorted(kinds))}"
    elif "dynamic" in rope_types:
        reason = "its rotary positions change with the length of the batch (rope_type dynamic)"
    elif "longrope" in rope_types and max_model_len > int(rope.get("original_max_position_embeddings", 0)):
        reason = "its long rotary factors (rope_type longrope) would mix with the short ones in a batch"
    if reason:
        raise ModelRefused(
            f"model_type {config.model_type!r} can't run over KV slots: {reason}",
            field="LLM",
            value=config.model_type,
            remedy="choose a decoder with full or sliding-window attention: llama, qwen, mistral, gemma, gpt-oss, …",
        )
