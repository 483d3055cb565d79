"""The interface between the engine and what computes logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch


class Segment(NamedTuple):
    """One sequence's part of a step: `new_ids` are at positions from `start` on, its KV is in `block_ids`."""

    new_ids: Sequence[int]
    start: int
    block_ids: Sequence[int]


class Backend(Protocol):
    """Holds the weights and the KV blocks. Called from one thread only."""

    @property
    def block_size(self) -> int:
        """Tokens that a block holds."""

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding table: ids below this one are valid."""

    @property
    def whole_prompts(self) -> bool:
        """Whether a prompt can't be computed in chunks and must come in one segment."""

    @property
    def weights_bytes(self) -> int:
        """Bytes of all parameters and buffers, tied ones once."""

    def allocate(self, num_blocks: int) -> int:
        """Allocate the KV memory, once. Returns its bytes."""

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        """Copy the KV of the first `num_tokens` tokens from one block into another."""

    def reusable(self, written: int, shared: int) -> int:
        """From how many of `shared` leading tokens a sequence can go on in blocks that `written` tokens went into."""

    def step(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Put every segment's tokens into its blocks; returns the logits after each one's last, (len(segments), V) in
        float32.

        Idempotent: the same segments may be run again, together or one by one.
        """
