"""Teaches the last layer where to look when it writes an answer.

The first token of an answer is the one hard choice: which of all the spans? The token's own loss says little about that
choice while attention is still spread over the whole prompt, so attention is also told directly: from where a token of
the answer is expected, it should rest where that token stands in the passages; and what the layer passes on from there
should name that token.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from training.attention.attention_probe import WatchedAttention, rotated
from training.exercises.packing import Batch


class PointingLoss:
    """Watches an attention module while it computes, and says how much attention misses the answers.

    An answer's first token counts `first_token_weight` times.
    """

    def __init__(self, attention: Any, first_token_weight: float = 1.0) -> None:
        self._watched = WatchedAttention(attention)
        self._first_token_weight = first_token_weight

    def __call__(self, batch: Batch) -> torch.Tensor:
        """-log(attention on an answer's token, mean of all heads), meaned over the answers' tokens of the last batch.

        0 where no answer of the batch stands in its passages.
        """
        if not len(batch.pointer_rows):
            return torch.zeros(())
        attention, (rows, columns) = self._watched.module, (batch.pointer_rows, batch.pointer_columns)
        size, (cosines, sines) = attention.head_dim, self._watched.rotations
        hidden = self._watched.hidden
        queries = attention.q_proj(hidden[rows, columns]).reshape(len(rows), -1, size)  # (N, heads, size)
        queries = rotated(queries, cosines[rows, columns, None], sines[rows, columns, None])
        keys = attention.k_proj(hidden).reshape(*hidden.shape[:2], -1, size)  # (B, T, groups, size)
        keys = rotated(keys, cosines[:, :, None], sines[:, :, None])[rows]
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
        """What the module writes where all heads attend to one place alone: (N, width), for N of the B * T `places`."""
        attention = self._watched.module
        values = attention.v_proj(self._watched.hidden.flatten(0, 1)[places])
        groups = values.reshape(len(values), -1, attention.head_dim)
        written: torch.Tensor = attention.o_proj(
            groups.repeat_interleave(attention.num_key_value_groups, dim=1).flatten(1)
        )
        return written
