"""Does a backend compute what the model computes? What is known not to is refused early, the rest by a self-test.

A backend runs `probe_ids` through the model as it came and through its own memory, and the logits are compared.
"""

from __future__ import annotations

from typing import Any

import torch

from rag.errors import ModelRefused

# Largest difference between the logits of this backend and the model's own that the self-test lets pass, as a share of
# the logits' own spread: rounding grows with the dtype, a wrong mask or position is of the order of one.
_SELF_TEST_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}


def held_bytes(model: Any) -> int:
    """Bytes of all parameters and buffers, tied ones once."""
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}.values())


def probe_ids(vocab_size: int, most: int, wanted: int = 24) -> list[int]:
    """A fixed prompt for self-tests, spread over the vocabulary: `wanted` tokens, but no more than `most`."""
    return [(7919 * place + 11) % vocab_size for place in range(min(wanted, most))]


def difference(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference of two rows of logits, as a share of their spread."""
    return float((logits - expected).abs().max() / expected.std())


def refuse_unlike(model: Any, logits: torch.Tensor, expected: torch.Tensor) -> None:
    """Raise ModelRefused where a backend's logits differ from the model's own by more than rounding."""
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
    """Raise ModelRefused for what is known not to run over KV slots, before any memory is taken."""
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
