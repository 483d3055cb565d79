"""How tensor parallelism divides a model: what one rank holds."""

from __future__ import annotations

from capacity.units import ceil_div


def rank_heads(kv_heads: int, tensor_parallel: int) -> int:
    """KV heads that one rank holds: an equal share rounded up, and one at the least (replicated)."""
    return max(1, ceil_div(kv_heads, tensor_parallel))
