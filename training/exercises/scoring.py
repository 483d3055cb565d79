"""Exact match on held-out exercises, in one forward pass each.

If every answer token has the highest logit given the correct tokens before it, greedy decoding produces exactly that
answer; so teacher forcing gives the exact-match score of greedy decoding without decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import TypeAlias

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from training.exercises import facts
from training.exercises.curriculum import Curriculum
from training.exercises.exercise import Exercise
from training.exercises.packing import collate, pack

Scores: TypeAlias = dict[str, float]
Exams: TypeAlias = dict[str, list[Exercise]]

HELD_OUT = "held out"
"""The seed of the held-out exercises; training uses other seeds."""


def generated(rng: Random, count: int) -> Exams:
    """Exercises over generated facts, and half as many with unanswerable questions only."""
    return {
        "facts": [
            facts.exercise(rng, passages=1 + i % 4, facts=3, questions=5, unanswerable=0.0, cross_language=0.0)
            for i in range(count)
        ],
        "refusals": [
            facts.exercise(rng, passages=1 + i % 4, facts=3, questions=5, unanswerable=1.0, cross_language=0.0)
            for i in range(count // 2)
        ],
    }


def held_out(curriculum: Curriculum, count: int = 40) -> Exams:
    """Held-out exercises: drawn with a separate seed, so their names do not occur in training."""
    rng = Random(HELD_OUT)
    exams = generated(rng, count)
    exams["prose"] = [
        curriculum.prose_exercise(rng, passages=1 + i % 3, sentences=4, late=True) for i in range(count // 2)
    ]
    return exams


def after_a_turn(exercises: Sequence[Exercise]) -> list[Exercise]:
    """The exercises with their first question as an earlier turn of the others."""
    several = (exercise for exercise in exercises if len(exercise.questions) > 1)
    return [replace(exercise, earlier=exercise.questions[:1], questions=exercise.questions[1:]) for exercise in several]


@torch.inference_mode()
def score(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, exams: Exams) -> Scores:
    """The share of questions in each set that greedy decoding answers exactly."""
    return {name: _exact_match(model, tokenizer, exercises) for name, exercises in exams.items()}


def _exact_match(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, exercises: Sequence[Exercise]) -> float:
    right = asked = 0
    for exercise in exercises:
        if not exercise.questions:
            continue
        batch = collate(pack(exercise, tokenizer), tokenizer.pad_token_id)
        hits = (model(input_ids=batch.ids).logits.argmax(-1) == batch.targets) | ~batch.answer
        right += int(hits.all(1).sum())
        asked += len(hits)
    return right / max(1, asked)
