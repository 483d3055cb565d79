"""A running generation: pieces of text while it runs, then the Answer with its sources and timings."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from typing_extensions import override

from rag.answering.grounding import ground
from rag.answering.prompt import Prompt
from rag.cancellation import Call
from rag.interfaces import Delta, DeltaStream, FinishReason, Language, Passage, TokenDetail


@dataclass(frozen=True, slots=True)
class Source:
    """A passage in the prompt, and whether the answer is supported by it."""

    passage: Passage
    cited: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """The whole answer. `timings` are seconds by stage; `first_token_s` counts from the request's arrival."""

    id: str
    text: str
    sources: tuple[Source, ...]
    grounded: bool
    grounding_score: float
    language: Language
    model: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    timings: Mapping[str, float]
    tokens: tuple[TokenDetail, ...] = ()


class Run:
    """A running generation. Iterating yields deltas with text or logprobs and, last, the Answer; closing it cancels.

    `language` is called at the end only. The callback of `on_end` is called once, with the answer or, where it was not
    finished, None.
    """

    def __init__(
        self,
        deltas: DeltaStream,
        prompt: Prompt,
        language: Callable[[], Language],
        model: str,
        times: StageTimes,
        call: Call,
    ) -> None:
        self.id = uuid.uuid4().hex
        self.passages = prompt.passages
        self.model = model
        self.answer: Answer | None = None
        self._deltas = deltas
        self._prompt = prompt
        self._language = language
        self._times = times
        self._call = call
        self._on_end: Callable[[Answer | None], None] = lambda _: None
        self._ended = False
        call.on_end(deltas.close)

    def on_end(self, callback: Callable[[Answer | None], None]) -> None:
        """Call `callback` when the generation has ended, however it ends."""
        self._on_end = callback

    def __iter__(self) -> Iterator[Delta | Answer]:
        pieces: list[str] = []
        tokens: list[TokenDetail] = []
        completion_tokens = 0
        reason: FinishReason = "cancelled"
        try:
            for delta in self._deltas:
                if not completion_tokens and delta.new_tokens:
                    self._times.mark("first_token_s")
                completion_tokens += delta.new_tokens
                pieces.append(delta.text)
                if delta.token is not None:
                    tokens.append(delta.token)
                if delta.text or delta.token is not None:
                    yield delta
                reason = delta.finish_reason or reason
            self._times.lap("generate_s")
            if reason == "cancelled" and self._call.expired:
                reason = "deadline"
            self.answer = self._answer("".join(pieces).strip(), reason, completion_tokens, tuple(tokens))
        finally:
            self.close()
        yield self.answer

    def close(self) -> None:
        """Cancel, also before iteration has begun, and free what the request holds. May be called again."""
        self._deltas.close()
        if not self._ended:
            self._ended = True
            self._on_end(self.answer)

    def _answer(
        self, text: str, reason: FinishReason, completion_tokens: int, tokens: tuple[TokenDetail, ...]
    ) -> Answer:
        found = ground(text, self.passages)
        self._times.mark("total_s")
        return Answer(
            id=self.id,
            text=text,
            sources=tuple(Source(passage, place in found.cited) for place, passage in enumerate(self.passages)),
            grounded=found.grounded,
            grounding_score=found.score,
            language=self._language(),
            model=self.model,
            finish_reason=reason,
            prompt_tokens=len(self._prompt.ids),
            completion_tokens=completion_tokens,
            timings=self._times.seconds,
            tokens=tokens,
        )


class FixedText(DeltaStream):
    """A stream of one text that was not generated."""

    def __init__(self, text: str) -> None:
        self._deltas = iter([Delta(text, 0, "stop")])

    @override
    def __iter__(self) -> Iterator[Delta]:
        return self._deltas

    @override
    def __next__(self) -> Delta:
        return next(self._deltas)

    @override
    def close(self) -> None:
        """Nothing runs."""


class StageTimes:
    """Seconds by stage: `lap` counts from the last lap, `mark` from the start."""

    def __init__(self) -> None:
        self._began = self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Record the seconds since the last lap."""
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 6)
        self._last = now

    def mark(self, name: str) -> None:
        """Record the seconds since the start."""
        self.seconds[name] = round(time.perf_counter() - self._began, 6)
