"""Bytes of KV cache of one session on one rank, for T tokens.

Pure functions of the layers; no weights, no hardware. Formulas, b the bytes of an element:
  full        kv·(k_dim + v_dim)·b·T                       kv is ceil(heads / tensor_parallel), at least 1
  sliding     the same for min(T, window), chunked likewise for min(T, chunk)
  MLA         (kv_lora_rank + rope)·b·T, whole on every rank, + the indexer's bytes
  state       heads·elements·4 + channels·(kernel − 1)·2, whatever T is
  cross       kv·(k_dim + v_dim)·b·T_encoder beside the decoder's own
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from capacity.errors import InvalidInput
from capacity.model.layers import Layer, RecurrentState
from capacity.precision import KvFormat
from capacity.sharding import rank_heads
from capacity.units import ceil_div, round_up


@dataclass(frozen=True, slots=True)
class KvLayout:
    """How an engine keeps the cache: the format, the ranks, the paging and whether windows save memory.

    `hybrid_allocator` False charges windowed layers the full context, as engines without one do. `block_size_tokens`
    rounds every attention group's tokens up; 1 means no paging. `encoder_tokens` is what cross-attention keeps.
    """

    format: KvFormat
    tensor_parallel: int = 1
    block_size_tokens: int = 1
    hybrid_allocator: bool = True
    encoder_tokens: int = 0

    def __post_init__(self) -> None:
        for field in ("tensor_parallel", "block_size_tokens"):
            if getattr(self, field) < 1:
                raise InvalidInput(field, f"{getattr(self, field)} is below 1")


@dataclass(frozen=True, slots=True)
class KvLine:
    """KV bytes as a straight line at one context: `constant_bytes` + `bytes_per_token` × tokens (paging aside)."""

    constant_bytes: int
    bytes_per_token: Fraction


def token_bytes(layer: Layer, layout: KvLayout) -> Fraction:
    """Bytes that one token costs in one attention layer on one rank."""
    if layer.latent_dim:
        whole = layout.format.latent_bytes_per_token
        return (Fraction(whole) if whole else layout.format.vector_bytes(layer.latent_dim)) + layer.indexer_bytes
    heads = rank_heads(layer.kv_heads, layout.tensor_parallel)
    return heads * (layout.format.vector_bytes(layer.k_dim) + layout.format.vector_bytes(layer.v_dim))


def all_token_bytes(layers: Iterable[Layer], layout: KvLayout) -> Fraction:
    """Bytes that one token costs in all of these attention layers on one rank."""
    return sum((token_bytes(layer, layout) for layer in layers), Fraction(0))


def state_bytes(state: RecurrentState, tensor_parallel: int) -> int:
    """Bytes of one layer's recurrent state on one rank; ranks beyond the groups hold a copy of a group each."""
    heads = ceil_div(state.heads, tensor_parallel)
    groups = state.groups if state.groups % tensor_parallel == 0 else max(state.groups, tensor_parallel)
    channels = ceil_div(state.split_channels + groups * state.group_channels, tensor_parallel)
    return heads * state.head_elements * state.state_bytes + channels * state.conv_width * state.conv_bytes


def stored_tokens(layer: Layer, tokens: int, layout: KvLayout) -> int:
    """Tokens that `layer` keeps of a session of `tokens`, rounded up to whole blocks."""
    kept = tokens
    if layer.window_tokens is not None and layout.hybrid_allocator:
        kept = min(tokens, layer.window_tokens)
    return round_up(kept, layout.block_size_tokens)


def session_bytes(layers: Iterable[Layer], tokens: int, layout: KvLayout) -> int:
    """Steady bytes of one session of `tokens` tokens on one rank. Raises InvalidInput for negative tokens."""
    if tokens < 0:
        raise InvalidInput("context", f"{tokens} tokens is negative")
    total = Fraction(0)
    for layer, count in Counter(layers).items():
        total += count * _layer_bytes(layer, tokens, layout)
    return ceil_fraction(total)


def _layer_bytes(layer: Layer, tokens: int, layout: KvLayout) -> Fraction:
    total = Fraction(0)
    if layer.attends:
        total += token_bytes(layer, layout) * stored_tokens(layer, tokens, layout)
        if layer.cross:
            total += token_bytes(layer, layout) * round_up(layout.encoder_tokens, layout.block_size_tokens)
    if layer.state is not None:
        total += state_bytes(layer.state, layout.tensor_parallel)
    return total


def line_at(layers: Iterable[Layer], tokens: int, layout: KvLayout) -> KvLine:
    """The line that holds at `tokens`: layers whose window is full add to the constant, the others to the slope."""
    constant, slope = Fraction(0), Fraction(0)
    for layer, count in Counter(layers).items():
        if layer.attends:
            cost = count * token_bytes(layer, layout)
            full = layer.window_tokens is not None and layout.hybrid_allocator and tokens > layer.window_tokens
            if full and layer.window_tokens is not None:
                constant += cost * round_up(layer.window_tokens, layout.block_size_tokens)
            else:
                slope += cost
            if layer.cross:
                constant += cost * round_up(layout.encoder_tokens, layout.block_size_tokens)
        if layer.state is not None:
            constant += count * state_bytes(layer.state, layout.tensor_parallel)
    return KvLine(ceil_fraction(constant), slope)


def ceil_fraction(value: Fraction) -> int:
    """The whole bytes that hold `value`."""
    return -(-value.numerator // value.denominator)
