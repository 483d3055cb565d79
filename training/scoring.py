"""Exact match on held-out exercises, in one forward pass each.

When every answer token is the most likely one given the right ones before it, greedy decoding writes exactly that
answer; so teacher forcing gives the exact-match score of greedy decoding without decoding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import TypeAlias

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from training import facts
from training.curriculum import Curriculum
from training.exercise import Exercise
from training.packing import IGNORED, collate, pack

Scores: TypeAlias = dict[str, float]
Exams: TypeAlias = dict[str, list[Exercise]]


def held_out(curriculum: Curriculum, count: int = 40) -> Exams:
    """Exercises apart from training's: their generator has its own seed, so their names are new."""
    rng = Random("held out")
    return {
        "facts": [
            facts.exercise(rng, passages=1 + i % 4, facts=3, questions=5, unanswerable=0.0, cross_language=0.0)
            for i in range(count)
        ],
        "refusals": [
            facts.exercise(rng, passages=1 + i % 4, facts=3, questions=5, unanswerable=1.0, cross_language=0.0)
            for i in range(count // 2)
        ],
        "prose": [
            curriculum.prose_exercise(rng, passages=1 + i % 3, sentences=4, late=True) for i in range(count // 2)
        ],
    }


@torch.inference_mode()
def score(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, exams: Exams) -> Scores:
    """The share of questions of each exam that greedy decoding answers exactly."""
    return {name: _exact_match(model, tokenizer, exercises) for name, exercises in exams.items()}


def _exact_match(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, exercises: Sequence[Exercise]) -> float:
    right: Counter[tuple[int, int]] = Counter()
    for number, exercise in enumerate(exercises):
        if not exercise.questions:
            continue
        item = pack(exercise, tokenizer)
        batch = collate([item], tokenizer.pad_token_id)
        logits = model(input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions).logits[0]
        hits = (logits.argmax(-1) == batch.targets[0]).tolist()
        for branch, target, of_answer, hit in zip(item.branches, item.targets, item.answer, hits, strict=True):
            if of_answer and target != IGNORED:
                right[number, branch] = min(right.get((number, branch), 1), int(hit))
    return sum(right.values()) / max(1, len(right))
