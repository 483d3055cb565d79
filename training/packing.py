"""Exercises to tensors: one sequence holds the passages once and every question over them as a branch.

A branch sees the passages and itself, never its sisters, and its positions go on where the passages end; so the model
computes for each branch exactly what it computes in serving, at a fraction of the price of repeating the passages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedTokenizerFast

from training.exercise import Exercise

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Packed:
    """One sequence: token ids, positions, the branch of each token (0 is the shared part) and targets of each token.

    `targets[i]` is the token that follows token i, or IGNORED; `answer[i]` says whether that target is of an answer.
    `pointers` holds, for each token of an answer that stands in the passages, the token before it and where it stands
    there.
    """

    ids: list[int]
    positions: list[int]
    branches: list[int]
    targets: list[int]
    answer: list[bool]
    pointers: list[tuple[int, list[int]]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """B sequences padded to T tokens: ids, positions, targets and answer are (B, T), mask is (B, 1, T, T).

    N tokens of answers stand in the passages: each follows on `pointer_rows`, `pointer_columns` (N); `pointer_marks`
    (N, T) says where in its row it stands, and `first` (B, T) what an answer's first token follows on.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    targets: torch.Tensor
    answer: torch.Tensor
    first: torch.Tensor
    pointer_rows: torch.Tensor
    pointer_columns: torch.Tensor
    pointer_marks: torch.Tensor


def pack_sequence(ids: Sequence[int], *, answer_from: int) -> Packed:
    """A plain causal sequence whose tokens from index `answer_from` on count as answer."""
    count = len(ids)
    targets = [*ids[1:], IGNORED]
    return Packed(list(ids), list(range(count)), [0] * count, targets, [i + 1 >= answer_from for i in range(count)])


def pack(exercise: Exercise, tokenizer: PreTrainedTokenizerFast) -> Packed:
    """The exercise as one sequence: the prompts' common beginning, then a branch for each question."""
    prompts, wholes = [], []
    for question in exercise.questions:
        messages = [{"role": message.role, "content": message.content} for message in exercise.messages(question)]
        prompts.append(tokenizer.apply_chat_template(messages, tokenize=False))
        wholes.append(f"{prompts[-1]} {question.reply}{tokenizer.eos_token}")
    encoded = tokenizer(prompts + wholes, add_special_tokens=False)["input_ids"]
    prompt_lengths = [len(ids) for ids in encoded[: len(prompts)]]
    sequences = encoded[len(prompts) :]
    # One question has no sister to share with; the last token before an answer must be a branch's own.
    shared = min(prompt_lengths) - 1
    for ids in sequences[1:]:
        shared = next((i for i in range(shared) if ids[i] != sequences[0][i]), shared)
    first = sequences[0][:shared]
    ids, positions, branches = list(first), list(range(shared)), [0] * shared
    targets, answer = [*first[1:], IGNORED][:shared], [False] * shared
    pointers = []
    for branch, (tokens, prompt_length) in enumerate(zip(sequences, prompt_lengths, strict=True), start=1):
        own = tokens[shared:]
        span = tokens[prompt_length:-1]
        stands = _places(first, span)
        before = len(ids) + prompt_length - 1 - shared
        pointers += [(before + i, [start + i for start in stands]) for i in range(len(span)) if stands]
        ids += own
        positions += range(shared, len(tokens))
        branches += [branch] * len(own)
        targets += [*own[1:], IGNORED]
        answer += [position + 1 >= prompt_length for position in range(shared, len(tokens))]
    return Packed(ids, positions, branches, targets, answer, pointers)


def _places(ids: Sequence[int], span: Sequence[int]) -> list[int]:
    """Where in `ids` the span begins."""
    return [start for start in range(len(ids) - len(span) + 1) if ids[start : start + len(span)] == span]


def collate(items: Sequence[Packed], padding_id: int) -> Batch:
    """The items as one batch, padded on the right to the longest."""
    length = max(map(len, items))

    def padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
        return torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows])

    # Padding is a branch of its own: nothing sees it, and it sees itself, so that no softmax is empty.
    branches = padded([item.branches for item in items], IGNORED)
    same = branches[:, None, :] == branches[:, :, None]
    to_shared = branches[:, None, :] == 0
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    pointers = [(row, column, places) for row, item in enumerate(items) for column, places in item.pointers]
    marks = torch.zeros(len(pointers), length, dtype=torch.bool)
    for number, (_, _, places) in enumerate(pointers):
        marks[number, places] = True
    answer = padded([item.answer for item in items], 0).bool()
    return Batch(
        ids=padded([item.ids for item in items], padding_id),
        positions=padded([item.positions for item in items], 0),
        mask=((same | to_shared) & causal)[:, None],
        targets=padded([item.targets for item in items], IGNORED),
        answer=answer,
        first=answer & ~answer.roll(1, dims=1),
        pointer_rows=torch.tensor([row for row, _, _ in pointers], dtype=torch.long),
        pointer_columns=torch.tensor([column for _, column, _ in pointers], dtype=torch.long),
        pointer_marks=marks,
    )
