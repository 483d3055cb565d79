"""Muon for the weight matrices of the layers, AdamW for all other parameters.

Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) replaces a matrix's momentum by the nearest
orthogonal matrix, computed by a Newton-Schulz iteration. torch's implementation computes in bfloat16, which many CPUs
emulate slowly; this one keeps the gradient's dtype and batches all matrices of one shape into one product.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def orthogonalise(matrices: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """(N, rows, columns) → matrices with the same singular vectors and singular values near 1."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x: torch.Tensor = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    transposed = x.size(-2) > x.size(-1)
    if transposed:
        x = x.mT
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if transposed else x


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum, scaled so that an update has the root mean square of AdamW's at the same rate."""

    def __init__(
        self, parameters: Iterable[dict[str, Any]], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter; `closure` is not used."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                by_shape[parameter.shape].append(parameter)
            for (rows, columns), parameters in by_shape.items():
                updates = []
                for parameter in parameters:
                    gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
                    momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                    momentum.lerp_(gradient, 1 - group["momentum"])
                    updates.append(torch.lerp(gradient, momentum, group["momentum"]))
                scale = 0.2 * max(rows, columns) ** 0.5
                for parameter, update in zip(parameters, orthogonalise(torch.stack(updates)), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-group["lr"] * scale)


def build_optimizers(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """The two optimizers of a model: Muon for the matrices of its layers, AdamW for the rest.

    Each group's `share` multiplies the common learning rate. Embeddings start with a standard deviation of 1, far above
    that of the matrices, so they need larger steps.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        Muon([{"params": matrices, "share": 1.0}], lr=lr),
        torch.optim.AdamW([{"params": rest, "share": 1.5}], lr=lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
