"""Records the inputs of an attention module, for auxiliary losses on its attention weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class AttentionProbe:
    """A layer's attention module and the inputs of its last forward pass.

    `hidden`: (B, T, width). `rotations`: cosines and sines of the positions, each (B, T, head size).
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.hidden = torch.empty(0)
        self.rotations = (torch.empty(0), torch.empty(0))
        module.register_forward_pre_hook(self._record, with_kwargs=True)

    def _record(self, _module: nn.Module, _arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.hidden = named["hidden_states"]
        cosines, sines = named["position_embeddings"]
        rows = len(self.hidden)
        self.rotations = cosines.expand(rows, -1, -1), sines.expand(rows, -1, -1)


def apply_rotary(vectors: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Queries or keys with the rotary embedding of their positions."""
    first, second = vectors.chunk(2, dim=-1)
    return vectors * cosines + torch.cat([-second, first], dim=-1) * sines
