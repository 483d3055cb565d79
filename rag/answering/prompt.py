"""Passages and a question to a prompt within a token budget.

Independent of the model: tokens are counted by the `encode` that is passed in. The default model is trained on exactly
the text of `write_messages`, so a change of its wording needs a new training.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rag.errors import PromptTooLong
from rag.interfaces import Language, Message, Passage

Encode = Callable[[Sequence[Message]], list[int]]

_SYSTEM: dict[Language, str] = {
    "pt": "Responda em português, de forma curta, usando somente as passagens numeradas. "
    "Se elas não trazem a resposta, diga: As passagens não dizem.",
    "en": "Answer in English, briefly, using only the numbered passages. "
    "If they do not hold the answer, say: The passages do not say.",
}
_PASSAGES: dict[Language, str] = {"pt": "Passagens:", "en": "Passages:"}
_QUESTION: dict[Language, str] = {"pt": "Pergunta:", "en": "Question:"}
NOT_IN_PASSAGES: dict[Language, str] = {"pt": "As passagens não dizem.", "en": "The passages do not say."}

# A passage cut shorter than this says too little to be worth its tokens.
_SHORTEST_CUT_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class Prompt:
    """The prompt's token ids, and its passages in the order of their numbers: passage i is source [i + 1]."""

    ids: tuple[int, ...]
    passages: tuple[Passage, ...]


def write_messages(
    question: str, passages: Sequence[Passage], language: Language, history: Sequence[Message] = ()
) -> list[Message]:
    """The conversation that asks `question` over numbered `passages`; without passages, the bare question."""
    if not passages:
        return [*history, Message("user", question)]
    numbered = [f"[{number}] {passage.title}\n{passage.text}" for number, passage in enumerate(passages, start=1)]
    body = "\n\n".join([_PASSAGES[language], *numbered, f"{_QUESTION[language]} {question}"])
    return [Message("system", _SYSTEM[language]), *history, Message("user", body)]


def build(
    question: str,
    passages: Sequence[Passage],
    *,
    encode: Encode,
    max_prompt_tokens: int,
    language: Language,
    history: Sequence[Message] = (),
) -> Prompt:
    """Pack as many of `passages`, best first, as fit in `max_prompt_tokens` with the whole question and history.

    A passage that does not fit whole is left out, except the best one, which is cut at a word's end. The question and
    the history are never cut: PromptTooLong says by how much they exceed the budget.
    """

    def encoded(kept: Sequence[Passage]) -> list[int]:
        return encode(write_messages(question, kept, language, history))

    whole = encoded(passages)
    if len(whole) <= max_prompt_tokens:  # nearly always: a single encoding
        return Prompt(tuple(whole), tuple(passages))
    bare = encoded(())
    if len(bare) > max_prompt_tokens:
        raise PromptTooLong(
            f"the question takes {len(bare)} tokens and this deployment leaves {max_prompt_tokens} for a prompt",
            field="query",
            value=f"{len(bare)} tokens",
            limit=f"{max_prompt_tokens} tokens",
            remedy="shorten the question or the history, ask for fewer max_new_tokens, or deploy with a larger CONTEXT",
        )
    kept = _within_budget(passages, encoded, len(bare), max_prompt_tokens)
    ids = encoded(kept)
    while kept and len(ids) > max_prompt_tokens:  # the sum is an estimate: tokens merge across boundaries
        kept = kept[:-1]
        ids = encoded(kept)
    if not kept and passages:
        kept = _cut_to_fit(passages[0], encoded, max_prompt_tokens)
        ids = encoded(kept)
    return Prompt(tuple(ids), tuple(kept))


def _within_budget(
    passages: Sequence[Passage], encoded: Callable[[Sequence[Passage]], list[int]], bare_tokens: int, budget_tokens: int
) -> list[Passage]:
    """The passages whose tokens, each counted once, add up to the budget at most."""
    kept: list[Passage] = []
    frame_tokens: int | None = None
    used = bare_tokens
    for passage in passages:
        alone = len(encoded([passage]))
        if frame_tokens is None:  # instructions and headings, counted once for all passages
            frame_tokens = len(encoded([replace(passage, title="", text="")])) - bare_tokens
            used += frame_tokens
        own = alone - bare_tokens - frame_tokens
        if used + own <= budget_tokens:
            kept.append(passage)
            used += own
    return kept


def _cut_to_fit(
    passage: Passage, encoded: Callable[[Sequence[Passage]], list[int]], budget_tokens: int
) -> list[Passage]:
    """The longest start of `passage`, in whole words, that fits; nothing where that would be too short to help."""
    words = passage.text.split()

    def tokens(count: int) -> int:
        return len(encoded([replace(passage, text=" ".join(words[:count]))]))

    text = " ".join(words[: bisect_right(range(1, len(words) + 1), budget_tokens, key=tokens)])
    return [replace(passage, text=text)] if len(text) >= _SHORTEST_CUT_CHARACTERS else []
