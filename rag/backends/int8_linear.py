"""Linear layers with int8 weights, symmetric, a scale for every output channel.

A model quantised here computes in torch exactly what its OpenVINO graph computes, so the graph's self-test keeps its
narrow tolerance. What rounding the weights loses is measured by benchmarks/paged.py.
"""

from __future__ import annotations

from typing import Any

import torch


class Int8Linear(torch.nn.Module):
    """`linear` with its weight (out, in) as int8 and a float32 scale (out, 1): weight ≈ codes · scale."""

    codes: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127
        self.register_buffer("codes", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Like Linear. OpenVINO reads the product as a compressed weight and keeps the codes."""
        return torch.nn.functional.linear(rows, self.codes.float() * self.scale, self.bias)


def quantize(model: Any) -> None:
    """Replace every Linear of `model` but its output head by an Int8Linear, one at a time, in place."""
    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.Linear) and child is not head:
                setattr(parent, name, Int8Linear(child))
