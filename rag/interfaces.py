"""The three seams, Embedder, Retriever and Generator, and the plain records that cross them.

The monolith fills the seams with objects in its own memory, the microservices with HTTP clients of the same signature,
the tests with deterministic fakes; the pipeline can't tell which. Nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vectors: TypeAlias = NDArray[np.float32]
Scalar: TypeAlias = str | int | float | bool
Language: TypeAlias = Literal["pt", "en"]
FinishReason: TypeAlias = Literal["stop", "length", "deadline", "cancelled"]


@dataclass(frozen=True, slots=True)
class Passage:
    """One retrieved piece of a document. `score` is comparable between the passages of one answer only."""

    id: str
    title: str
    text: str
    score: float
    metadata: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, in the roles that chat templates know."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. `temperature` 0 is greedy; every default switches its step off."""

    max_new_tokens: int
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    """How many of the likeliest tokens to report beside each chosen one; None reports nothing."""
    deadline_s: float | None = None
    """Seconds from submission after which the generation ends with what it has."""


class TokenLogprob(NamedTuple):
    """A token id and its log-probability by the model alone."""

    token: int
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenDetail:
    """One generated token: its own text, its log-probability, and the likeliest tokens in its place."""

    id: int
    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of generated text. The last one of a generation carries `finish_reason`, and only that one.

    `token` is there where the request asked for logprobs, one a new token.
    """

    text: str
    new_tokens: int
    finish_reason: FinishReason | None = None
    token: TokenDetail | None = None


class KvUse(NamedTuple):
    """How a generator's KV memory is used: blocks held now, and prompt tokens that, in all, needed no computing."""

    used_blocks: int
    reused_tokens: int


class DeltaStream(Protocol):
    """The deltas of one generation. Closing it early cancels the generation and frees what it holds."""

    def __iter__(self) -> Iterator[Delta]: ...

    def __next__(self) -> Delta:
        """The next delta. Raises GenerationFailed when the engine broke on this request."""

    def close(self) -> None:
        """Cancel if still running. May be called again, and by another thread than the one that iterates."""


class Embedder(Protocol):
    """Text to unit vectors."""

    @property
    def name(self) -> str:
        """What the index's manifest records, and what a mismatch is reported by."""

    @property
    def dimension(self) -> int:
        """Components of one vector."""

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """(len(texts), dimension), each row of length 1."""

    def embed_passages(self, texts: Sequence[str]) -> Vectors:
        """(len(texts), dimension), each row of length 1."""

    def close(self) -> None:
        """Stop. Embeds nothing afterwards."""


class Retriever(Protocol):
    """A question to passages, best first."""

    def retrieve(
        self,
        question: str,
        *,
        top_k: int,
        filters: Mapping[str, Scalar | Sequence[Scalar]] | None = None,
        min_score: float | None = None,
    ) -> list[Passage]:
        """At most `top_k` passages whose metadata pass `filters` and whose score is at least `min_score`."""


class Generator(Protocol):
    """Messages to text."""

    @property
    def name(self) -> str:
        """The model's name, as answers report it."""

    @property
    def alive(self) -> bool:
        """Whether it can still answer; once False it stays so until `revive`."""

    @property
    def max_model_len(self) -> int:
        """Tokens that a prompt and its output may have together."""

    @property
    def kv_use(self) -> KvUse:
        """For metrics; zeros where the memory is somebody else's."""

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's token ids, by the model's chat template where it has one."""

    def generate(self, prompt_ids: Sequence[int], sampling: Sampling, session: str | None = None) -> DeltaStream:
        """Start a generation, in the memory of an open session where one is named; one at a time in each session.

        Raises Overloaded, NotReady, PromptTooLong, SessionClosed or InvalidRequest at once.
        """

    def open_session(self, session: str) -> None:
        """Keep KV memory of a whole context for `session`, and in it what each turn leaves. Raises Overloaded."""

    def close_session(self, session: str) -> None:
        """Give that memory back. A session that is not open is no error."""

    def revive(self) -> None:
        """Start over after `alive` has turned False; sessions are lost. Raises where that can't be done."""

    def close(self) -> None:
        """Stop. What still runs ends in GenerationFailed."""
