"""Teaches the second layer to find the question's words in the passages.

The chat template puts the question before the passages, so a passage's word can know that it was asked for; a reader
who knows where the question's words stand has half of the answer. Where a token of the passages stands in the question,
one head's attention should rest there; where it doesn't, on the prompt's first token, which stands for "nowhere".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from training.attention.attention_probe import WatchedAttention, rotated
from training.exercises.packing import IGNORED, Batch

_WORD_START = "\u0120"  # byte-level BPE's sign for a blank


class MatchingLoss:
    """Watches an attention module while it computes, and says how much its first group's heads miss the question.

    `tokens` are the vocabulary's, in their order, as the byte-level tokenizer writes them.
    """

    def __init__(self, attention: Any, tokens: Sequence[str]) -> None:
        self._watched = WatchedAttention(attention)
        self._starts = torch.tensor([token.startswith(_WORD_START) for token in tokens])

    def __call__(self, batch: Batch) -> torch.Tensor:
        """-log(attention where it should rest), meaned over what the question holds, and over what it doesn't.

        A token that begins a word is the question's when it stands there; one within a word also needs the same token
        before it. 0 where no sequence of the last batch begins with a question.
        """
        rows = batch.asked.any(1)
        if not rows.any():
            return torch.zeros(())
        ids, asked, length = batch.ids[rows], batch.asked[rows], batch.ids.shape[1]
        reach = int(asked.any(0).nonzero().max()) + 1  # no question is longer
        same = (ids[:, :, None] == ids[:, None, :reach]) & asked[:, None, :reach]
        before = ids.roll(1, dims=1)
        same &= self._starts[ids][:, :, None] | (before[:, :, None] == before[:, None, :reach])
        reads = (torch.arange(length) >= asked.int().argmax(1, keepdim=True) + asked.sum(1, keepdim=True)) & (
            batch.targets[rows] != IGNORED
        )
        found = reads & same.any(-1)
        missed = reads & ~found
        # Where nothing is to be found the first token is wanted; where nothing is measured it keeps all values finite.
        same = torch.where(found[:, :, None], same, torch.arange(reach) == 0)
        lost = -self._shares(rows)[..., :reach].masked_fill(~same[:, None], -torch.inf).logsumexp(-1).mean(1)
        means: torch.Tensor = lost[found].mean().nan_to_num() + lost[missed].mean().nan_to_num()
        return means

    def _shares(self, rows: torch.Tensor) -> torch.Tensor:
        """Logarithms of the attention of the first group's heads: (rows, heads, T, T)."""
        attention, hidden = self._watched.module, self._watched.hidden[rows]
        size, heads = attention.head_dim, attention.num_key_value_groups
        cosines, sines = (rotation[rows] for rotation in self._watched.rotations)
        projected = nn.functional.linear(hidden, attention.q_proj.weight[: heads * size])
        queries = rotated(projected.reshape(*hidden.shape[:2], heads, size), cosines[:, :, None], sines[:, :, None])
        keys = rotated(nn.functional.linear(hidden, attention.k_proj.weight[:size]), cosines, sines)
        scores = torch.einsum("bthd,bsd->bhts", queries, keys) * size**-0.5
        unseen = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        shares: torch.Tensor = scores.masked_fill(unseen, -torch.inf).log_softmax(-1)
        return shares
