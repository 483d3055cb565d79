"""Auxiliary loss that trains the second layer to find the question's words in the passages.

The chat template puts the question before the passages, so a passage's token can attend to the question, and later
layers can look for the answer near matching words. For a token that occurs in the question, a head should attend to
that occurrence; for any other token, to the prompt's first token, which stands for "no match".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from training.attention.attention_probe import AttentionProbe, apply_rotary
from training.exercises.packing import IGNORED, Batch

_WORD_START = "\u0120"  # byte-level BPE's symbol for a space


class MatchingLoss:
    """The loss for the first group's heads of an attention module, after each forward pass.

    `tokens`: the vocabulary in order of the token ids, as the byte-level tokenizer writes it.
    """

    def __init__(self, attention: Any, tokens: Sequence[str]) -> None:
        self._probe = AttentionProbe(attention)
        self._starts = torch.tensor([token.startswith(_WORD_START) for token in tokens])

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Mean -log(attention on the target) over tokens that occur in the question, plus the mean over the others.

        A token that begins a word matches the same token in the question; one within a word also needs an equal
        previous token. 0 if no sequence of the batch begins with a question.
        """
        rows = batch.asked.any(1)
        if not rows.any():
            return torch.zeros(())
        ids, asked, length = batch.ids[rows], batch.asked[rows], batch.ids.shape[1]
        reach = int(asked.any(0).nonzero().max()) + 1  # the end of the longest question
        same = (ids[:, :, None] == ids[:, None, :reach]) & asked[:, None, :reach]
        before = ids.roll(1, dims=1)
        same &= self._starts[ids][:, :, None] | (before[:, :, None] == before[:, None, :reach])
        reads = (torch.arange(length) >= asked.int().argmax(1, keepdim=True) + asked.sum(1, keepdim=True)) & (
            batch.targets[rows] != IGNORED
        )
        found = reads & same.any(-1)
        missed = reads & ~found
        # Without a match the target is the first token; that also keeps the ignored positions finite.
        same = torch.where(found[:, :, None], same, torch.arange(reach) == 0)
        lost = -self._shares(rows)[..., :reach].masked_fill(~same[:, None], -torch.inf).logsumexp(-1).mean(1)
        means: torch.Tensor = lost[found].mean().nan_to_num() + lost[missed].mean().nan_to_num()
        return means

    def _shares(self, rows: torch.Tensor) -> torch.Tensor:
        """The log attention weights of the first group's heads: (rows, heads, T, T)."""
        attention, hidden = self._probe.module, self._probe.hidden[rows]
        size, heads = attention.head_dim, attention.num_key_value_groups
        cosines, sines = (rotation[rows] for rotation in self._probe.rotations)
        projected = nn.functional.linear(hidden, attention.q_proj.weight[: heads * size])
        queries = apply_rotary(
            projected.reshape(*hidden.shape[:2], heads, size), cosines[:, :, None], sines[:, :, None]
        )
        keys = apply_rotary(nn.functional.linear(hidden, attention.k_proj.weight[:size]), cosines, sines)
        scores = torch.einsum("bthd,bsd->bhts", queries, keys) * size**-0.5
        unseen = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        shares: torch.Tensor = scores.masked_fill(unseen, -torch.inf).log_softmax(-1)
        return shares
