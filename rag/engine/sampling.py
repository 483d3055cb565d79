"""From logits to the next token, one row for each sequence.

In this order, each step skipped where the request does not set it: penalties, min_new_tokens, temperature, top_k,
top_p, min_p, and a draw from the sequence's own random generator.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch

from rag.interfaces import Sampling, TokenLogprob

_log = logging.getLogger(__name__)


class Draw(NamedTuple):
    """A chosen token; `logprob` and `top` (most likely first) only where the request sets logprobs."""

    token: int
    logprob: float | None = None
    top: tuple[TokenLogprob, ...] = ()


class Sampler:
    """The sampling state of one sequence. With its own random generator a seed gives the same text in any batch."""

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int] = (), end_ids: Sequence[int] = ()) -> None:
        self._sampling = sampling
        self._end_ids = torch.tensor(sorted({*end_ids, *sampling.stop_ids}), dtype=torch.long)
        self._seen = set(prompt_ids) if sampling.repetition_penalty != 1.0 else set()
        self._counts: Counter[int] = Counter()
        self._drawn = 0
        self._generator: torch.Generator | None = None

    @property
    def greedy(self) -> bool:
        """Whether the plain argmax of the logits is the choice."""
        options = self._sampling
        return (
            options.temperature == 0
            and options.logprobs is None
            and not self._penalised
            and self._drawn >= options.min_new_tokens
        )

    def draw(self, logits: torch.Tensor) -> Draw:
        """The next token by the model's logits (V,), and its log-probability before any of the steps above."""
        scores = logits.detach().to("cpu", torch.float32, copy=True)
        raw = torch.log_softmax(scores, dim=-1) if self._sampling.logprobs is not None else None
        if self._penalised:
            self._penalise(scores)
        if self._drawn < self._sampling.min_new_tokens:
            scores[self._end_ids] = float("-inf")
        token = int(scores.argmax()) if self._sampling.temperature == 0 else self._sampled(scores)
        self._record(token)
        if raw is None:
            return Draw(token)
        values, ids = raw.topk(min(self._sampling.logprobs or 0, len(raw)))
        top = tuple(map(TokenLogprob, ids.tolist(), values.tolist()))
        return Draw(token, float(raw[token]), top)

    @property
    def _penalised(self) -> bool:
        options = self._sampling
        return options.repetition_penalty != 1.0 or options.presence_penalty != 0.0 or options.frequency_penalty != 0.0

    def _penalise(self, scores: torch.Tensor) -> None:
        """Repetition as in CTRL (arXiv 1909.05858), over prompt and output; the others as OpenAI's, over output."""
        if self._seen:
            seen = torch.tensor(sorted(self._seen), dtype=torch.long)
            penalty = self._sampling.repetition_penalty
            scores[seen] = torch.where(scores[seen] > 0, scores[seen] / penalty, scores[seen] * penalty)
        if self._counts:
            ids = torch.tensor(list(self._counts), dtype=torch.long)
            times = torch.tensor(list(self._counts.values()), dtype=torch.float32)
            scores[ids] -= self._sampling.presence_penalty + self._sampling.frequency_penalty * times

    def _sampled(self, scores: torch.Tensor) -> int:
        ranked, ids = (scores / self._sampling.temperature).sort(descending=True)
        keep = len(ranked) if self._sampling.top_k == 0 else min(self._sampling.top_k, len(ranked))
        probabilities = torch.softmax(ranked[:keep], dim=-1)
        if self._sampling.top_p < 1.0:
            # the smallest set whose mass reaches top_p: a token is kept while the mass before it is below top_p
            before = probabilities.cumsum(dim=-1) - probabilities
            probabilities = probabilities * (before < self._sampling.top_p)
        if self._sampling.min_p > 0.0:
            probabilities = probabilities * (probabilities >= self._sampling.min_p * probabilities[0])
        if self._generator is None:
            self._generator = torch.Generator()
            if self._sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(self._sampling.seed)
        return int(ids[torch.multinomial(probabilities, 1, generator=self._generator)])

    def _record(self, token: int) -> None:
        self._drawn += 1
        if self._penalised:
            self._counts[token] += 1
            if self._sampling.repetition_penalty != 1.0:
                self._seen.add(token)


def choose(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[Draw | None]:
    """The next token of each row of `logits` (B, V); None where the row has no finite maximum or its draw raises.

    Greedy rows share one argmax and one transfer from the device: the only synchronisation of a step.
    """
    best, greedy = logits.max(dim=-1)
    # max() propagates NaN, so checking each row's maximum is enough; float64 represents every token id exactly
    maxima, tokens = torch.stack((best.double(), greedy.double())).tolist()
    draws: list[Draw | None] = []
    for row, sampler in enumerate(samplers):
        if not math.isfinite(maxima[row]):
            draws.append(None)
        else:
            draws.append(Draw(int(tokens[row])) if sampler.greedy else _draw(sampler, logits[row]))
    return draws


def _draw(sampler: Sampler, logits: torch.Tensor) -> Draw | None:
    """A row fails alone: one request's parameters must not end the step of the others."""
    try:
        return sampler.draw(logits)
    except Exception:
        _log.exception("no token could be drawn for a request")
        return None
