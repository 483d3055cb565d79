"""Auxiliary loss that trains the last layer's attention to point at the answer in the passages.

The first token of an answer is the hard choice, among all spans. Cross-entropy gives little signal for it while
attention is still spread over the whole prompt, so attention is trained directly as well: at the position that predicts
a token of the answer, it should rest on that token's occurrence in the passages, and the layer's output from there
should predict that token.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from training.attention.attention_probe import AttentionProbe, apply_rotary
from training.exercises.packing import Batch


class PointingLoss:
    """The loss for an attention module, after each forward pass.

    An answer's first token has the weight `first_token_weight`.
    """

    def __init__(self, attention: Any, first_token_weight: float = 1.0) -> None:
        self._probe = AttentionProbe(attention)
        self._first_token_weight = first_token_weight

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Mean over the answers' tokens of -log(attention on the token in the passages, averaged over heads).

        0 if no answer of the batch occurs in its passages.
        """
        if not len(batch.pointer_rows):
            return torch.zeros(())
        attention, (rows, columns) = self._probe.module, (batch.pointer_rows, batch.pointer_columns)
        size, (cosines, sines) = attention.head_dim, self._probe.rotations
        hidden = self._probe.hidden
        queries = attention.q_proj(hidden[rows, columns]).reshape(len(rows), -1, size)  # (N, heads, size)
        queries = apply_rotary(queries, cosines[rows, columns, None], sines[rows, columns, None])
        keys = attention.k_proj(hidden).reshape(*hidden.shape[:2], -1, size)  # (B, T, groups, size)
        keys = apply_rotary(keys, cosines[:, :, None], sines[:, :, None])[rows]
        grouped = queries.reshape(len(rows), keys.shape[2], -1, size)
        scores = torch.einsum("ngrd,ntgd->ngrt", grouped, keys) * size**-0.5
        unseen = torch.arange(batch.ids.shape[1]) > columns[:, None]
        scores = scores.masked_fill(unseen[:, None, None], -torch.inf)
        shares = scores.log_softmax(-1).masked_fill(~batch.pointer_marks[:, None, None], -torch.inf)
        missed = math.log(queries.shape[1]) - shares.flatten(1).logsumexp(-1)
        weights = 1 + (self._first_token_weight - 1) * batch.first[rows, columns].float()
        mean: torch.Tensor = (missed * weights).sum() / weights.sum()
        return mean

    def passed_on(self, places: torch.Tensor) -> torch.Tensor:
        """The module's output if all heads attend to one position only: (N, width), for N of the B * T `places`."""
        attention = self._probe.module
        values = attention.v_proj(self._probe.hidden.flatten(0, 1)[places])
        groups = values.reshape(len(values), -1, attention.head_dim)
        written: torch.Tensor = attention.o_proj(
            groups.repeat_interleave(attention.num_key_value_groups, dim=1).flatten(1)
        )
        return written
