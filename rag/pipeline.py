"""The story of a request: retrieve → write the prompt → generate → see whether the answer is grounded."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from rag import prompt
from rag.errors import PromptTooLong
from rag.grounding import ground
from rag.language import detect_language
from rag.schema import Ask
from rag.seams import (
    Delta,
    DeltaStream,
    Embedder,
    FinishReason,
    Generator,
    Language,
    Passage,
    Retriever,
    Sampling,
    TokenDetail,
    Vectors,
)

# No tokenizer makes fewer tokens than one in this many characters of text; it bounds the work on a hopeless question.
_MOST_CHARACTERS_A_TOKEN = 32


@dataclass(frozen=True, slots=True)
class Source:
    """A passage that the model read, and whether its answer rests on it."""

    passage: Passage
    cited: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """The whole answer. Times are seconds, by stage; `first_token_s` counts from the request's arrival."""

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


@dataclass(frozen=True, slots=True)
class Embedding:
    """Unit vectors (texts, dimension) and the model that made them."""

    vectors: Vectors
    model: str


class Pipeline:
    """The building blocks in a row. It can't tell whether they live in this process."""

    def __init__(
        self,
        embedder: Embedder,
        retriever: Retriever,
        generator: Generator,
        *,
        default_top_k: int,
        default_min_score: float,
        deadline_s: float,
        stream_deadline_s: float,
    ) -> None:
        self.embedder = embedder
        self.retriever = retriever
        self.generator = generator
        self._default_top_k = default_top_k
        self._default_min_score = default_min_score
        self._deadline_s = deadline_s
        self._stream_deadline_s = stream_deadline_s

    def embed(self, ask: Ask) -> Embedding:
        """The vectors of the texts, as queries are embedded."""
        return Embedding(self.embedder.embed_queries(ask.texts), self.embedder.name)

    def retrieve(self, ask: Ask) -> list[Passage]:
        """The passages that the question brings up, best first; none in the generate mode."""
        if ask.mode == "generate":
            return []
        self._refuse_hopeless(ask.question)
        # Who asks for passages sees them all; a prompt is better off without those that have little to do with it.
        min_score = self._default_min_score if ask.min_score is None and ask.mode == "answer" else ask.min_score
        return self.retriever.retrieve(
            ask.question,
            top_k=ask.top_k or self._default_top_k,
            filters=ask.filters or None,
            min_score=min_score,
        )

    def answer(self, ask: Ask) -> Answer:
        """The whole answer at once."""
        *_, last = self.start(ask)
        assert isinstance(last, Answer), "a run ends in its answer or raises"
        return last

    def start(self, ask: Ask) -> Run:
        """Do all that can be refused, and begin to generate. From here on the run can break but not be refused."""
        clock = _Clock()
        language = ask.language or detect_language(ask.question)
        sampling = self._sampling(ask)
        passages = self.retrieve(ask)
        clock.lap("retrieve_s")
        written = prompt.build(
            ask.question,
            passages,
            encode=self.generator.encode,
            max_prompt_tokens=self.generator.max_model_len - sampling.max_new_tokens,
            language=language,
            history=ask.history,
        )
        clock.lap("prompt_s")
        if ask.mode == "answer" and not passages:
            deltas: DeltaStream = _Said(
                prompt.NOT_IN_PASSAGES[language]
            )  # nothing to answer from, so nothing to compute
        else:
            deltas = self.generator.generate(written.ids, sampling)
        return Run(deltas, written, language, self.generator.name, clock)

    def close(self) -> None:
        """Stop what runs behind the seams."""
        self.generator.close()
        self.embedder.close()

    def _sampling(self, ask: Ask) -> Sampling:
        limit = self.generator.max_model_len
        if ask.sampling.max_new_tokens >= limit:
            raise PromptTooLong(
                f"max_new_tokens {ask.sampling.max_new_tokens} leaves no room for a prompt in a context of {limit}",
                field="max_new_tokens",
                value=ask.sampling.max_new_tokens,
                limit=limit - 1,
                remedy="ask for fewer max_new_tokens, or deploy with a larger CONTEXT",
            )
        return replace(ask.sampling, deadline_s=self._stream_deadline_s if ask.stream else self._deadline_s)

    def _refuse_hopeless(self, question: str) -> None:
        most = self.generator.max_model_len * _MOST_CHARACTERS_A_TOKEN
        if len(question) > most:
            raise PromptTooLong(
                f"the question has {len(question)} characters; a context of {self.generator.max_model_len} tokens "
                f"never holds more than {most}",
                field="query",
                value=f"{len(question)} characters",
                limit=f"{most} characters",
                remedy="shorten the question, or deploy with a larger CONTEXT",
            )


class Run:
    """A generation under way. Iterating gives deltas that show something and, last, the Answer; closing it cancels."""

    def __init__(
        self, deltas: DeltaStream, written: prompt.Prompt, language: Language, model: str, clock: _Clock
    ) -> None:
        self.id = uuid.uuid4().hex
        self.passages = written.passages
        self.model = model
        self._deltas = deltas
        self._written = written
        self._language = language
        self._clock = clock

    def __iter__(self) -> Iterator[Delta | Answer]:
        pieces: list[str] = []
        tokens: list[TokenDetail] = []
        completion_tokens = 0
        reason: FinishReason = "cancelled"
        try:
            for delta in self._deltas:
                if not completion_tokens and delta.new_tokens:
                    self._clock.mark("first_token_s")
                completion_tokens += delta.new_tokens
                pieces.append(delta.text)
                if delta.token is not None:
                    tokens.append(delta.token)
                if delta.text or delta.token is not None:
                    yield delta
                reason = delta.finish_reason or reason
        finally:
            self._deltas.close()
        self._clock.lap("generate_s")
        yield self._answer("".join(pieces).strip(), reason, completion_tokens, tuple(tokens))

    def close(self) -> None:
        """Cancel, also where iteration never began."""
        self._deltas.close()

    def _answer(
        self, text: str, reason: FinishReason, completion_tokens: int, tokens: tuple[TokenDetail, ...]
    ) -> Answer:
        found = ground(text, self.passages)
        self._clock.mark("total_s")
        return Answer(
            id=self.id,
            text=text,
            sources=tuple(Source(passage, place in found.cited) for place, passage in enumerate(self.passages)),
            grounded=found.grounded,
            grounding_score=found.score,
            language=self._language,
            model=self.model,
            finish_reason=reason,
            prompt_tokens=len(self._written.ids),
            completion_tokens=completion_tokens,
            timings=self._clock.seconds,
            tokens=tokens,
        )


class _Said:
    """A DeltaStream of one fixed text."""

    def __init__(self, text: str) -> None:
        self._deltas = iter([Delta(text, 0, "stop")])

    def __iter__(self) -> Iterator[Delta]:
        return self._deltas

    def __next__(self) -> Delta:
        return next(self._deltas)

    def close(self) -> None:
        """Nothing runs."""


class _Clock:
    """Seconds by stage: `lap` since the last lap, `mark` since the beginning."""

    def __init__(self) -> None:
        self._began = self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 6)
        self._last = now

    def mark(self, name: str) -> None:
        self.seconds[name] = round(time.perf_counter() - self._began, 6)
