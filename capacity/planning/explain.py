"""The arithmetic of one model on one rank, item by item: bytes of a token, of a session, of the weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from typing import Any

from capacity.errors import InvalidInput
from capacity.memory.kv import KvLayout, all_token_bytes, ceil_fraction, line_at, session_bytes
from capacity.memory.weights import RankWeights, checkpoint_bytes, rank_weights, stages
from capacity.model.layers import Layer
from capacity.model.model import Model
from capacity.planning.footprint import ESTIMATED, EXACT
from capacity.planning.workload import check_tensor_parallel
from capacity.precision import kv_format

# The context of a model that sets no limit, where none is requested.
_UNBOUNDED_CONTEXT = 4096
_STEP_TOKENS = 8192


def explain_model(
    model: Model,
    *,
    kv_dtype: str | None = None,
    weights_dtype: str | None = None,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    context_tokens: int | None = None,
    block_size_tokens: int = 16,
    hybrid_allocator: bool = True,
    encoder_tokens: int = 512,
) -> dict[str, Any]:
    """Figures of the fullest rank as a JSON object; bytes are integers unless half-byte formats make a fraction.

    `kv_bytes_per_token_per_rank` is the slope and `kv_constant_bytes_per_rank` the constant of the line that holds at
    `context_tokens` (the model's maximum by default); windows that are full at that context belong to the constant.
    `kv_bytes_at_context_per_rank` is the whole session, rounded up to blocks. `kv_in_flight_bytes_per_rank` is what
    windowed layers hold on top while a step of 8,192 tokens is being written: count it once a rank to admit.
    """
    check_tensor_parallel(model, tensor_parallel)
    if not 1 <= pipeline_parallel <= len(model.layers):
        raise InvalidInput("pipeline_parallel", f"{pipeline_parallel} is outside 1–{len(model.layers)}")
    context = _context(model, context_tokens)
    form = kv_format(kv_dtype or model.kv_dtype)
    layout = KvLayout(form, tensor_parallel, block_size_tokens, hybrid_allocator, encoder_tokens)
    spans = [model.layers[span.start : span.stop] for span in stages(len(model.layers), pipeline_parallel)]
    fullest = max(spans, key=lambda span: session_bytes(span, context, layout))
    weights = max(
        rank_weights(model, tensor_parallel, pipeline_parallel, weights_dtype), key=lambda rank: rank.total_bytes
    )
    whole, exact, source = checkpoint_bytes(model)
    return {
        "model": model.name,
        "model_type": model.config.model_type,
        "dtype": model.dtype,
        "kv_dtype": form.name,
        "tensor_parallel": tensor_parallel,
        "pipeline_parallel": pipeline_parallel,
        "context_tokens": context,
        "max_context_tokens": model.max_context_tokens,
        "block_size_tokens": block_size_tokens,
        "hybrid_allocator": hybrid_allocator,
        **_kv_figures(fullest, context, layout),
        **_weight_figures(weights),
        "checkpoint_bytes": whole,
        "checkpoint_label": _label(exact),
        "checkpoint_source": source,
        "parameters": {"total": model.parameters.total, "active": model.parameters.active},
        "layers": dict(Counter(layer.kind for layer in model.layers)),
        "source": model.source,
        "confidence": model.confidence,
    }


def _context(model: Model, requested: int | None) -> int:
    context = requested or model.max_context_tokens or _UNBOUNDED_CONTEXT
    if context < 1:
        raise InvalidInput("context", f"{context} is below 1")
    if model.max_context_tokens is not None and context > model.max_context_tokens:
        raise InvalidInput("context", f"{context} tokens is above {model.name}'s maximum of {model.max_context_tokens}")
    return context


def _kv_figures(layers: tuple[Layer, ...], context: int, layout: KvLayout) -> dict[str, Any]:
    line = line_at(layers, context, replace(layout, block_size_tokens=1))
    attending = [layer for layer in layers if layer.attends]
    windowed = [layer for layer in attending if layer.window_tokens is not None and context > layer.window_tokens]
    return {
        "kv_bytes_per_token_per_rank": _number(line.bytes_per_token),
        "kv_constant_bytes_per_rank": line.constant_bytes,
        "kv_bytes_at_context_per_rank": session_bytes(layers, context, layout),
        "kv_bytes_per_token_within_windows_per_rank": _number(all_token_bytes(attending, layout)),
        "kv_in_flight_bytes_per_rank": ceil_fraction(all_token_bytes(windowed, layout) * min(_STEP_TOKENS, context)),
    }


def _weight_figures(weights: RankWeights) -> dict[str, Any]:
    return {
        "weights_bytes_per_rank": weights.total_bytes,
        "weights": {
            "parameter_bytes_per_rank": weights.parameter_bytes,
            "rotary_table_bytes_per_rank": weights.table_bytes,
            "kernel_padding_bytes_per_rank": weights.padding_bytes,
            "mla_absorbed_bytes_per_rank": weights.absorbed_bytes,
            "allocator_rounding_bytes_per_rank": weights.rounding_bytes,
            "label": _label(weights.exact),
            "source": weights.source,
        },
    }


def _label(exact: bool) -> str:
    return EXACT if exact else ESTIMATED


def _number(value: Fraction) -> int | float:
    return value.numerator if value.denominator == 1 else float(value)
