"""A part of a model: a count of parameters, what they are, and how tensor-parallel ranks share them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from capacity.sharding import rank_heads
from capacity.units import ceil_div, round_up

# Engines pad the vocabulary to whole multiples of this, then split it.
VOCABULARY_MULTIPLE = 64


@dataclass(frozen=True, slots=True)
class Part:
    """`elements` may be quantised, depending on `role`; `plain_elements` (biases) never are.

    `sharing`: whole (on every rank), split (an equal share), kv (by KV head, replicas where too few), vocab.
    `role`: linear, expert, router, embedding, head, vision or other.
    `layer` is the layer's index, None outside the layers. `loaded` is false for what engines do not load.
    """

    name: str
    elements: int
    sharing: str = "whole"
    role: str = "other"
    plain_elements: int = 0
    plain_whole: bool = False
    kv_heads: int = 0
    rows: int = 0
    layer: int | None = None
    loaded: bool = True

    @property
    def total_elements(self) -> int:
        """All parameters of the part, biases included, on all ranks together (replicas counted once)."""
        return self.elements + self.plain_elements

    def at(self, layer: int) -> Part:
        """This part in layer `layer`."""
        return replace(self, layer=layer)

    def not_loaded(self) -> Part:
        """This part, marked as not loaded by engines."""
        return replace(self, loaded=False)

    def rank_elements(self, tensor_parallel: int, *, padded: bool = True) -> tuple[int, int]:
        """(elements, plain elements) that the fullest rank holds; `padded` rounds the vocabulary up as engines do."""
        multiple = VOCABULARY_MULTIPLE if padded else 1
        own = self._share(self.elements, tensor_parallel, multiple)
        if self.plain_whole:
            return own, self.plain_elements
        return own, self._share(self.plain_elements, tensor_parallel, multiple)

    def _share(self, count: int, ranks: int, multiple: int) -> int:
        if self.sharing == "split":
            return ceil_div(count, ranks)
        if self.sharing == "kv":
            return count // self.kv_heads * rank_heads(self.kv_heads, ranks)
        if self.sharing == "vocab":
            return count // self.rows * ceil_div(round_up(self.rows, multiple), ranks) if count else 0
        return count


def linear(
    name: str,
    inputs: int,
    outputs: int,
    sharing: str = "split",
    bias: bool = False,
    kv_heads: int = 0,
    bias_whole: bool = False,
) -> Part:
    """A matrix of `inputs` × `outputs`; its bias (of `outputs`) is never quantised, and whole if inputs are split."""
    return Part(
        name,
        inputs * outputs,
        sharing,
        "linear",
        plain_elements=outputs if bias else 0,
        plain_whole=bias_whole,
        kv_heads=kv_heads,
    )
