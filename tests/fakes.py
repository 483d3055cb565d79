"""Deterministic fakes of embedder, retriever and generator: everything above the models is tested in milliseconds."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rag.admission.admission import Admission
from rag.admission.ledger_admission import Budget, LedgerAdmission
from rag.answering.pipeline import LocalPipeline, Pipeline, PipelineOptions
from rag.errors import GenerationFailed, PromptTooLong, RagError, SessionClosed
from rag.interfaces import Delta, KvUse, Message, Passage, Sampling, Scalar, TokenDetail, Vectors

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
    """The given pieces, then the finish reason; a piece that is an error is raised."""

    def __init__(self, pieces: Sequence[str | RagError], generator: FakeGenerator, *, logprobs: bool) -> None:
        self._logprobs = logprobs
        self._closed = False
        self._generator = generator
        self._steps = self._run(pieces)
        generator.open += 1

    def _run(self, pieces: Sequence[str | RagError]) -> Iterator[Delta]:
        for place, piece in enumerate(pieces):
            while not self._generator.gate.wait(0.01):
                if self._closed:
                    yield Delta("", 0, "cancelled")
                    return
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
    """One token a word. Answers with `pieces`, which wait for `gate`; `open` counts the streams that are not closed."""

    name = "fake-llm"
    max_model_len = 256
    kv_use = KvUse(0, 0)

    def __init__(self) -> None:
        self.alive = True
        self.revivals = 0
        self.sessions: set[str] = set()
        self.open = 0
        self.gate = threading.Event()
        self.gate.set()
        self.pieces: Sequence[str | RagError] = ("Brasí", "lia", ".")
        self.asked: list[tuple[list[Message], Sampling]] = []
        self._messages: list[Message] = []

    def encode(self, messages: Sequence[Message]) -> list[int]:
        self._messages = list(messages)
        return [1] * sum(len(message.content.split()) for message in messages)

    def generate(self, prompt_ids: Sequence[int], sampling: Sampling, session: str | None = None) -> FakeDeltas:
        if session is not None and session not in self.sessions:
            raise SessionClosed("gone", field="session", value=session)
        if len(prompt_ids) + sampling.max_new_tokens > self.max_model_len:
            raise PromptTooLong("too long", field="query", value=len(prompt_ids), limit=self.max_model_len)
        self.asked.append((self._messages, sampling))
        return FakeDeltas(self.pieces, self, logprobs=sampling.logprobs is not None)

    def open_session(self, session: str) -> None:
        self.sessions.add(session)

    def close_session(self, session: str) -> None:
        self.sessions.discard(session)

    def revive(self) -> None:
        self.revivals += 1
        self.sessions.clear()
        self.alive = True

    def close(self) -> None:
        self.alive = False


BROKEN = GenerationFailed("the model failed on this request")


def fake_admission(
    sessions: int = 8, *, sequences: int | None = None, block_tokens: int = FakeGenerator.max_model_len, **limits: Any
) -> LedgerAdmission:
    """A ledger for `sessions` whole contexts of the fake generator, with a sequence for each block if not given."""
    blocks = sessions * -(-FakeGenerator.max_model_len // block_tokens)
    context = FakeGenerator.max_model_len
    budget = Budget(sequences or blocks, blocks, block_tokens, block_bytes=1000, context_tokens=context)
    return LedgerAdmission(budget, **{"max_waiting": 8, "longest_wait_s": 10.0, **limits})


def fake_pipeline(
    generator: FakeGenerator | None = None,
    admission: Admission | None = None,
    *,
    clock: Callable[[], float] = time.time,
    deadline_s: float = 50,
) -> Pipeline:
    """A pipeline of fakes."""
    options = PipelineOptions(
        top_k=2, min_score=0.15, deadline_s=deadline_s, stream_deadline_s=470, session_s=3600, session_idle_s=600
    )
    generator, admission = generator or FakeGenerator(), admission or fake_admission()
    pipeline = LocalPipeline(FakeEmbedder(), FakeRetriever(), generator, admission, options)
    pipeline.sessions.clock = clock
    return pipeline
