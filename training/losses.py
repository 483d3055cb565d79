"""The training loss: answers, the rest of the text, and three auxiliary losses on attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from training.attention.matching import MatchingLoss
from training.attention.pointing import PointingLoss
from training.exercises.packing import IGNORED, Batch
from training.llm_options import TrainingOptions


class CombinedLoss:
    """The weighted sum of a model's losses on a batch. `tokens`: the vocabulary, in order of the token ids."""

    def __init__(self, model: LlamaForCausalLM, tokens: Sequence[str], options: TrainingOptions) -> None:
        self._model = model
        self._options = options
        self._pointing_loss = PointingLoss(model.model.layers[-1].self_attn, options.first_token_weight)
        # Layer 1 is initialised to match contents: see training/attention/induction.py.
        self._matching_loss = MatchingLoss(model.model.layers[1].self_attn, tokens)
        self._sampling = torch.Generator()

    def __call__(self, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss to differentiate, and each of its terms. `step` seeds the sampling of targets."""
        options = self._options
        hidden = self._model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
        targets = batch.targets.flatten()
        answer = batch.answer.flatten() & (targets != IGNORED)
        # The output head is a large part of the compute and most targets are not answers, so those are sampled.
        self._sampling.manual_seed(step)
        sampled = torch.rand(len(targets), generator=self._sampling) < options.language_sample
        language = (targets != IGNORED) & ~answer & sampled
        kept = answer | language
        logits = self._model.lm_head(hidden.flatten(0, 1)[kept])
        losses = functional.cross_entropy(logits, targets[kept], reduction="none")
        # An answer's first token chooses among all spans; the later ones only continue the copy, which is learnt first.
        first = batch.first.flatten()[kept][answer[kept]]
        weights = 1 + (options.first_token_weight - 1) * first.float()
        answer_losses = losses[answer[kept]]
        answer_loss = (answer_losses * weights).sum() / weights.sum().clamp(min=1)
        language_loss = losses[language[kept]].sum() / language.sum().clamp(min=1)
        pointing_loss = self._pointing_loss(batch)
        copying_loss = self._copying_loss(batch)
        matching_loss = self._matching_loss(batch)
        loss = (
            answer_loss
            + options.language_loss * language_loss
            + options.pointing_loss * pointing_loss
            + options.copying_loss * copying_loss
            + options.matching_loss * matching_loss
        )
        return loss, {
            "answer_loss": answer_loss.item(),
            "first_token_loss": answer_losses[first].mean().nan_to_num().item(),
            "pointing_loss": pointing_loss.item(),
            "copying_loss": copying_loss.item(),
            "matching_loss": matching_loss.item(),
            "language_loss": language_loss.item(),
        }

    def _copying_loss(self, batch: Batch) -> torch.Tensor:
        """Cross-entropy of predicting the attended token from the last layer's output, on a tenth of the tokens."""
        chosen = torch.rand(batch.ids.numel(), generator=self._sampling) < 0.1
        places = (chosen & batch.targets.flatten().ne(IGNORED)).nonzero().squeeze(1)
        logits = self._model.lm_head(self._model.model.norm(self._pointing_loss.passed_on(places)))
        return functional.cross_entropy(logits, batch.ids.flatten()[places]) if len(places) else torch.zeros(())
