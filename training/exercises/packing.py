"""Converts exercises to tensors: each question with its passages is one sequence, formatted exactly as in serving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedTokenizerFast

from training.exercises.exercise import Exercise
from training.exercises.tokenizer import USER

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Packed:
    """One sequence of token ids; those from `answer_from` on are the answer.

    `asked`: the positions of the question before the passages. `pointers`: for each token of an answer that occurs in
    the passages, the position that predicts it, and its positions in the passages.
    """

    ids: list[int]
    answer_from: int
    asked: range = range(0)
    pointers: list[tuple[int, list[int]]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """B sequences padded on the right to T tokens; all but the pointers are (B, T).

    `targets`: the next token, or IGNORED; `answer`: whether that token belongs to an answer; `first`: whether it is an
    answer's first; `asked`: marks the question before the passages. For the N answer tokens that occur in the passages,
    `pointer_rows` and `pointer_columns` (N) are the positions that predict them, and `pointer_marks` (N, T) marks their
    positions in the passages.
    """

    ids: torch.Tensor
    targets: torch.Tensor
    answer: torch.Tensor
    first: torch.Tensor
    asked: torch.Tensor
    pointer_rows: torch.Tensor
    pointer_columns: torch.Tensor
    pointer_marks: torch.Tensor


def pack(exercise: Exercise, tokenizer: PreTrainedTokenizerFast) -> list[Packed]:
    """A sequence for each of the exercise's questions."""
    texts: list[str] = []
    for question in exercise.questions:
        messages = [{"role": message.role, "content": message.content} for message in exercise.messages(question)]
        prompt = str(tokenizer.apply_chat_template(messages, tokenize=False))
        # The last turn starts with the question, which ends at the first empty line; its label ends at the colon.
        head = prompt[: prompt.index("\n\n", prompt.rindex(USER))]
        texts += [
            head[: head.index(":", head.rindex(USER)) + 1],
            head,
            prompt,
            f"{prompt} {question.reply}{tokenizer.eos_token}",
        ]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    packed = []
    for heading, head, prompt, ids in zip(*(encoded[part::4] for part in range(4)), strict=True):
        start, span = len(prompt), ids[len(prompt) : -1]
        starts = [place for place in _places(ids[:start], span) if place >= len(head)]
        pointers = [(start - 1 + i, [place + i for place in starts]) for i in range(len(span)) if starts]
        packed.append(Packed(ids, start, range(len(heading), len(head)), pointers))
    return packed


def _places(ids: Sequence[int], span: Sequence[int]) -> list[int]:
    """The positions in `ids` where the span starts."""
    return [start for start in range(len(ids) - len(span) + 1) if ids[start : start + len(span)] == span]


def collate(items: Sequence[Packed], padding_id: int) -> Batch:
    """The items as one batch, padded on the right, where causal attention never sees the padding."""
    length = max(map(len, items))

    def padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
        return torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows])

    def marked(ranges: Sequence[range]) -> torch.Tensor:
        marks = torch.zeros(len(items), length, dtype=torch.bool)
        for row, places in enumerate(ranges):
            marks[row, places.start : places.stop] = True
        return marks

    pointers = [(row, column, places) for row, item in enumerate(items) for column, places in item.pointers]
    pointer_marks = torch.zeros(len(pointers), length, dtype=torch.bool)
    for number, (_, _, places) in enumerate(pointers):
        pointer_marks[number, places] = True
    return Batch(
        ids=padded([item.ids for item in items], padding_id),
        targets=padded([[*item.ids[1:], IGNORED] for item in items], IGNORED),
        answer=marked([range(item.answer_from - 1, len(item) - 1) for item in items]),
        first=marked([range(item.answer_from - 1, item.answer_from) for item in items]),
        asked=marked([item.asked for item in items]),
        pointer_rows=torch.tensor([row for row, _, _ in pointers], dtype=torch.long),
        pointer_columns=torch.tensor([column for _, column, _ in pointers], dtype=torch.long),
        pointer_marks=pointer_marks,
    )
