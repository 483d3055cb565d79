"""What an attention module last computed on, for losses that say where it should look."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class WatchedAttention:
    """A layer's attention, and what its last forward was given.

    `hidden` is (B, T, width), `rotations` are the cosines and the sines of the positions, each (B, T, size of a head).
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.hidden = torch.empty(0)
        self.rotations = (torch.empty(0), torch.empty(0))
        module.register_forward_pre_hook(self._watch, with_kwargs=True)

    def _watch(self, _module: nn.Module, _arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.hidden = named["hidden_states"]
        cosines, sines = named["position_embeddings"]
        rows = len(self.hidden)
        self.rotations = cosines.expand(rows, -1, -1), sines.expand(rows, -1, -1)


def rotated(vectors: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Queries or keys with their positions' rotary embedding."""
    first, second = vectors.chunk(2, dim=-1)
    return vectors * cosines + torch.cat([-second, first], dim=-1) * sines
