"""The seam between the scheduler and whatever computes logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch


class Segment(NamedTuple):
    """One sequence's part of a step: `new_ids` stand at positions from `start` on, its KV lives in `block_ids`."""

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
        """Ids below this one are valid."""

    @property
    def whole_prompts(self) -> bool:
        """Whether a prompt must come in one segment, since it can't be computed in chunks."""

    @property
    def weights_bytes(self) -> int:
        """Bytes that the weights take."""

    def allocate(self, num_blocks: int) -> int:
        """Allocate the KV memory, once. Returns its bytes."""

    def copy(self, source: int, target: int, num_tokens: int) -> None:
        """Copy the KV of the first `num_tokens` tokens from one block into another."""

    def reusable(self, written: int, shared: int) -> int:
        """From how many of `shared` leading tokens a sequence can go on in cells that `written` tokens went into."""

    def step(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Put every segment's tokens into its blocks and return the logits (len(segments), V) after each one's last.

        Running the same segments again, together or apart, has the same effect as running them once.
        """
