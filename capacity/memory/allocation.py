"""Rounding by the CUDA caching allocator: allocations above 10 MiB come in whole blocks of 2 MiB.

A block whose rest is above 1 MiB is split and the rest freed; a smaller rest stays allocated. Weights repacked for a
kernel keep any rest: they are made while the loaded tensor still exists. Engines log memory as this
allocator counts it, so shapes that are no multiple of 2 MiB weigh more than their bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from capacity.model.parameter_parts import Part
from capacity.units import MIB, round_up

_LARGE_BYTES = 10 * MIB
_BLOCK_BYTES = 2 * MIB
_SPLIT_BYTES = MIB
# Projections that engines keep in one tensor, by the name of their parts within a layer.
_FUSED = {
    "self_attn.q_proj": "self_attn.qkv_proj",
    "self_attn.k_proj": "self_attn.qkv_proj",
    "self_attn.v_proj": "self_attn.qkv_proj",
    "self_attn.q_a_proj": "self_attn.qkv_a_proj",
    "self_attn.kv_a_proj_with_mqa": "self_attn.qkv_a_proj",
}


@dataclass(frozen=True, slots=True)
class RankPart:
    """A part on one rank: the layers it occurs in, how often, the bytes of one, and whether it was repacked."""

    part: Part
    layers: tuple[int | None, ...]
    count: int
    size_bytes: Fraction
    repacked: bool


def rounding_bytes(size_bytes: int, *, repacked: bool = False) -> int:
    """What the allocator adds to one tensor of `size_bytes`."""
    if size_bytes < _LARGE_BYTES:
        return 0
    rest = round_up(size_bytes, _BLOCK_BYTES) - size_bytes
    return rest if repacked or rest <= _SPLIT_BYTES else 0


def fused_name(part: Part) -> str:
    """The tensor that a part ends up in: q, k and v together, gate and up together, any other alone."""
    if part.name.endswith((".gate_proj", ".up_proj")):
        return f"{part.name.rpartition('.')[0]}.gate_up_proj"
    return _FUSED.get(part.name, part.name)


def rank_rounding_bytes(parts: Iterable[RankPart]) -> int:
    """What the allocator adds on one rank. Experts are two tensors: gate and up, and down."""
    sizes: dict[tuple[str, tuple[int | None, ...]], Fraction] = {}
    first: dict[tuple[str, tuple[int | None, ...]], RankPart] = {}
    for held in parts:
        if held.part.role == "vision":
            continue  # many small tensors of other shapes
        shares = [Fraction(2, 3), Fraction(1, 3)] if held.part.role == "expert" else [Fraction(1)]
        for number, share in enumerate(shares):
            key = (f"{fused_name(held.part)}{number}", held.layers)
            sizes[key] = sizes.get(key, Fraction(0)) + held.size_bytes * share
            first.setdefault(key, held)
    return sum(
        first[key].count * rounding_bytes(int(size), repacked=first[key].repacked) for key, size in sizes.items()
    )
