"""Attention over KV cells that a backend keeps itself: the formula, and which cells a query sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

# Lengths are rounded up to this, so that kernels are called with few distinct shapes.
_LENGTH_STEP_TOKENS = 64


def attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """softmax(cap(q·kᵀ·scale) | sink)·v. query (B, H_kv, R, D), keys (B, H_kv, L, D), mask broadcast to the scores.

    torch's fused kernels support neither the cap (Gemma 2) nor the sinks (gpt-oss, one learnt logit a head, here
    (H_kv, R)): with one of them the formula is computed operation by operation.
    """
    if softcap is None and sinks is None:
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
    scores = (query @ keys.transpose(-1, -2)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.float() if mask is None else scores.float() + mask
    if sinks is not None:
        sink = sinks.float()[None, :, :, None].expand(scores.shape[0], -1, -1, 1)
        scores = torch.cat([scores, sink], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., : keys.shape[2]]
    return weights.to(values.dtype) @ values


def visible_cells(held: int, cells: int, last: torch.Tensor, queries: torch.Tensor, window: int | None) -> torch.Tensor:
    """Which of the first `held` of a slot's `cells` a query at position `queries` sees, broadcast over both.

    `last` is the newest position in the slot. The cells are a ring buffer: position p is in cell p mod cells, which is
    p itself until positions wrap.
    """
    cell = torch.arange(held, device=queries.device)
    position = last - (last - cell) % cells
    seen = (position >= 0) & (position <= queries)
    return seen if window is None else seen & (position > queries - window)


def additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where a query sees a cell, −∞ elsewhere. Made once a step: a boolean would be converted in every layer."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, float("-inf"))


def rounded_length(longest: int, most: int) -> int:
    """The cells to attend over where the longest running sequence has `longest`; never more than `most`."""
    return min(-(-longest // _LENGTH_STEP_TOKENS) * _LENGTH_STEP_TOKENS, most)


def on_device(values: Sequence[Any], device: torch.device) -> torch.Tensor:
    """Integers as a tensor on `device`. To a GPU they go from pinned memory, so that the copy is asynchronous."""
    tensor = torch.tensor(values, dtype=torch.long)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
