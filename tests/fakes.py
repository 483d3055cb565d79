"""Deterministic stand-ins for the three seams, so that everything above the models is tested in milliseconds."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rag.errors import GenerationFailed, PromptTooLong, RagError
from rag.pipeline import Pipeline
from rag.seams import Delta, Message, Passage, Sampling, Scalar, TokenDetail, Vectors

PASSAGES = (
    Passage("pt/brasilia.md#0", "Brasília", "Brasília é a capital do Brasil desde 1960.", 0.9, {"language": "pt"}),
    Passage("en/brazil.md#0", "Brazil", "The capital of Brazil is Brasília.", 0.7, {"language": "en"}),
    Passage("pt/rio.md#0", "Rio", "O Rio de Janeiro foi a capital até 1960.", 0.4, {"language": "pt"}),
)


class FakeEmbedder:
    """A unit vector from the text's hash."""

    name = "fake-embedder"
    dimension = 8

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        rows = [np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.uint8)[:8] for text in texts]
        vectors = np.array(rows, dtype=np.float32) + 1
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    embed_passages = embed_queries

    def close(self) -> None:
        """Nothing runs."""


class FakeRetriever:
    """The same passages for every question, after the filters."""

    def retrieve(
        self,
        question: str,
        *,
        top_k: int,
        filters: Mapping[str, Scalar | Sequence[Scalar]] | None = None,
        min_score: float | None = None,
    ) -> list[Passage]:
        kept = [
            passage
            for passage in PASSAGES
            if passage.score >= (min_score or 0)
            and all(passage.metadata.get(name) == value for name, value in (filters or {}).items())
        ]
        return kept[:top_k]


class FakeDeltas:
    """Scripted pieces, then the reason; an error in their place breaks the stream there."""

    def __init__(self, pieces: Sequence[str | RagError], generator: FakeGenerator, *, logprobs: bool) -> None:
        self._logprobs = logprobs
        self._steps = self._run(pieces)
        self._generator = generator
        generator.open += 1
        self._closed = False

    def _run(self, pieces: Sequence[str | RagError]) -> Iterator[Delta]:
        for place, piece in enumerate(pieces):
            self._generator.gate.wait(10)
            if isinstance(piece, RagError):
                raise piece
            detail = TokenDetail(place, piece, -0.5, (("Rio", -1.5),)) if self._logprobs else None
            yield Delta(piece, 1, token=detail)
        yield Delta("", 0, "stop")

    def __iter__(self) -> FakeDeltas:
        return self

    def __next__(self) -> Delta:
        return next(self._steps)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._generator.open -= 1


class FakeGenerator:
    """One token a word. Answers with `pieces`, which `gate` can hold back; `open` counts the streams not closed."""

    name = "fake-llm"
    max_model_len = 256

    def __init__(self) -> None:
        self.alive = True
        self.open = 0
        self.gate = threading.Event()
        self.gate.set()
        self.pieces: Sequence[str | RagError] = ("Brasí", "lia", ".")
        self.asked: list[tuple[list[Message], Sampling]] = []
        self._messages: list[Message] = []

    def encode(self, messages: Sequence[Message]) -> list[int]:
        self._messages = list(messages)
        return [1] * sum(len(message.content.split()) for message in messages)

    def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> FakeDeltas:
        if len(prompt_ids) + sampling.max_new_tokens > self.max_model_len:
            raise PromptTooLong("too long", field="query", value=len(prompt_ids), limit=self.max_model_len)
        self.asked.append((self._messages, sampling))
        return FakeDeltas(self.pieces, self, logprobs=sampling.logprobs is not None)

    def close(self) -> None:
        self.alive = False


BROKEN = GenerationFailed("the model failed on this request")


def fake_pipeline(generator: FakeGenerator | None = None) -> Pipeline:
    """A pipeline of fakes."""
    return Pipeline(
        FakeEmbedder(),
        FakeRetriever(),
        generator or FakeGenerator(),
        default_top_k=2,
        default_min_score=0.15,
        deadline_s=50,
        stream_deadline_s=470,
    )
