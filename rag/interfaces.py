"""The interfaces between the parts (embedder, retriever, generator, servable) and the records that they exchange.

The monolith implements them with objects in its own memory, the microservices with HTTP clients of the same signature,
the tests with deterministic fakes; the pipeline is the same code in all three. Nothing heavy is imported here.
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
    """How tokens are sampled. `temperature` 0 is greedy; every default disables its step."""

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
    """How many of the most likely tokens to report beside each chosen one; None reports nothing."""
    deadline_s: float | None = None
    """Seconds from submission after which the generation ends with the text that it has."""


class TokenLogprob(NamedTuple):
    """A token id and its log-probability by the model alone."""

    token: int
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenDetail:
    """One generated token: its text, its log-probability, and the most likely tokens at its position."""

    id: int
    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of generated text. Only the last one of a generation has a `finish_reason`.

    `token` is set where the request asked for logprobs: one delta a new token.
    """

    text: str
    new_tokens: int
    finish_reason: FinishReason | None = None
    token: TokenDetail | None = None


class KvUse(NamedTuple):
    """A generator's KV memory: blocks in use now, and the total of prompt tokens taken from the prefix cache."""

    used_blocks: int
    reused_tokens: int


@dataclass(frozen=True, slots=True)
class Usage:
    """The admission ledger at one moment. `total_blocks` is the Plan's, less those lost when memory ran out."""

    total_blocks: int = 0
    reserved_blocks: int = 0
    block_bytes: int = 0
    requests: int = 0
    sessions: int = 0
    waiting: int = 0


class DeltaStream(Protocol):
    """The deltas of one generation. Closing it early cancels the generation and frees its memory."""

    def __iter__(self) -> Iterator[Delta]: ...

    def __next__(self) -> Delta:
        """The next delta. Raises GenerationFailed when the engine failed on this request."""

    def close(self) -> None:
        """Cancel if still running. May be called again, and by another thread than the one that iterates."""


class QueryEmbedder(Protocol):
    """Questions to unit vectors: what a request needs of an embedder, which may run in another process."""

    @property
    def name(self) -> str:
        """The model's name, which the index's manifest records and mismatch errors report."""

    @property
    def dimension(self) -> int:
        """Components of one vector."""

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """(len(texts), dimension), each row of length 1."""

    def close(self) -> None:
        """Stop. Nothing is embedded afterwards."""


class PassageEmbedder(Protocol):
    """Passages to unit vectors: what building an index needs of an embedder."""

    def embed_passages(self, texts: Sequence[str]) -> Vectors:
        """(len(texts), dimension), each row of length 1."""


class Embedder(QueryEmbedder, PassageEmbedder, Protocol):
    """A whole embedder, in this process."""


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
        """At most `top_k` passages whose metadata match `filters` and whose score is at least `min_score`."""


class Generator(Protocol):
    """Messages to text, by an LLM in this process or another."""

    @property
    def name(self) -> str:
        """The model's name, as answers report it."""

    @property
    def max_model_len(self) -> int:
        """Tokens of a prompt and its output together, at most."""

    @property
    def kv_use(self) -> KvUse:
        """For metrics."""

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The prompt's token ids, by the model's chat template where it has one."""

    def generate(self, prompt_ids: Sequence[int], sampling: Sampling, session: str | None = None) -> DeltaStream:
        """Start a generation, in the memory of an open session if one is given; one at a time in each session.

        Raises Overloaded, NotReady, PromptTooLong, SessionClosed or InvalidRequest at once.
        """

    def open_session(self, session: str) -> None:
        """Reserve KV memory of a whole context for `session`; it keeps the KV cache of each turn. Raises Overloaded."""

    def close_session(self, session: str) -> None:
        """Free that memory. A session that is not open is no error."""

    def close(self) -> None:
        """Stop. Running generations end in GenerationFailed."""


class LocalGenerator(Generator, Protocol):
    """A generator whose engine runs in this process, where it can be restarted."""

    @property
    def alive(self) -> bool:
        """Whether the engine runs; once False it stays so until `revive`."""

    def revive(self) -> None:
        """Restart the engine after `alive` has become False; sessions are lost. Raises where that can't be done."""


class Servable:
    """What a process serves: the pipeline, or the part of it that one service runs.

    The defaults are those of a part that reserves no memory, has no sessions and can't die.
    """

    @property
    def alive(self) -> bool:
        """Whether it can answer; once False it stays so until `revive`."""
        return True

    @property
    def draining(self) -> bool:
        """Whether `drain` was called."""
        return False

    def usage(self) -> Usage:
        """The admission ledger now."""
        return Usage()

    def kv_use(self) -> KvUse:
        """The use of KV memory now."""
        return KvUse(0, 0)

    def sweep(self) -> None:
        """Close expired sessions; called a few times a second."""

    def revive(self) -> None:
        """Restart the engine and check that it answers. Raises where that can't be done."""

    def drain(self, grace_s: float) -> None:
        """Refuse new work from now on, and end running requests after `grace_s` seconds."""

    def close(self) -> None:
        """Stop. Nothing is answered afterwards."""
