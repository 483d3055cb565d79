"""From logits to the next token, a row a sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rag.seams import Sampling


class Sampler:
    """Draws one sequence's tokens. Its own generator makes a seed give the same text alone or in a crowd."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._generator: torch.Generator | None = None

    def draw(self, logits: torch.Tensor) -> int:
        """A token from `logits` (V,), by temperature, top_k and top_p, in that order."""
        scaled = logits.float().cpu() / self.sampling.temperature
        ranked, ids = scaled.sort(descending=True)
        keep = len(ranked) if self.sampling.top_k == 0 else min(self.sampling.top_k, len(ranked))
        probabilities = torch.softmax(ranked[:keep], dim=-1)
        if self.sampling.top_p < 1.0:
            # the smallest set whose mass reaches top_p: a token stays while the mass before it is below top_p
            before = probabilities.cumsum(dim=-1) - probabilities
            probabilities = probabilities * (before < self.sampling.top_p)
        if self._generator is None:
            self._generator = torch.Generator()
            if self.sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(self.sampling.seed)
        drawn = torch.multinomial(probabilities, 1, generator=self._generator)
        return int(ids[drawn])


def choose(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[int | None]:
    """The next token of each row of `logits` (B, V); None where the row holds a NaN or an infinity of its own.

    Greedy rows share one argmax and one transfer from the device.
    """
    best, greedy = logits.max(dim=-1)
    finite = torch.isfinite(best).tolist()  # max() hands a NaN on, so one look at each row's maximum is enough
    tokens = greedy.tolist()
    return [
        None if not sound else sampler.draw(logits[row]) if sampler.sampling.temperature > 0 else tokens[row]
        for row, (sound, sampler) in enumerate(zip(finite, samplers, strict=True))
    ]
