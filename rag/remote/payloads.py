"""The payloads between the services, as records and as bytes: records in JSON, vectors in NumPy's format.

Floats are exact: JSON has the shortest text that reads back as the same double, so an answer by way of the services
equals the monolith's, byte for byte.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from rag.engine.chat_tokenizer import PublishedTokenizer
from rag.errors import GenerationFailed, InvalidRequest, RagError, rebuilt
from rag.interfaces import Delta, KvUse, Message, Passage, Sampling, Scalar, TokenDetail, Usage, Vectors
from rag.serving.responses import dump


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """POST /embed: texts → (texts, dimension) unit vectors, as one .npy."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RetrieveRequest:
    """POST /retrieve: a question → passages."""

    question: str
    top_k: int
    filters: dict[str, Scalar | list[Scalar]] | None = None
    min_score: float | None = None


@dataclass(frozen=True, slots=True)
class EncodeRequest:
    """POST /encode: messages → token ids."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """POST /generate: token ids → deltas as JSON Lines. Closing the connection cancels it.

    `tokenizer` is the fingerprint of the tokenizer that made the ids: another model's ids are refused.
    """

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    tokenizer: str
    session: str | None = None


@dataclass(frozen=True, slots=True)
class TooLongRequest:
    """POST /refusals/too_long: the refusal that a request of this size would get."""

    prompt_tokens: int
    new_tokens: int
    allow_long: bool


@dataclass(frozen=True, slots=True)
class VectorDescription:
    """A ready vector service's answer on /health."""

    name: str
    dimension: int


@dataclass(frozen=True, slots=True)
class LlmDescription:
    """A ready LLM service's answer on /health."""

    name: str
    max_model_len: int
    tokenizer: str


Record = TypeVar("Record")

EMBED_REQUEST = TypeAdapter(EmbedRequest)
RETRIEVE_REQUEST = TypeAdapter(RetrieveRequest)
ENCODE_REQUEST = TypeAdapter(EncodeRequest)
GENERATE_REQUEST = TypeAdapter(GenerateRequest)
VECTOR_DESCRIPTION = TypeAdapter(VectorDescription)
TOO_LONG_REQUEST = TypeAdapter(TooLongRequest)
LLM_DESCRIPTION = TypeAdapter(LlmDescription)
USAGE = TypeAdapter(Usage)
KV_USE = TypeAdapter(KvUse)
PASSAGES = TypeAdapter(list[Passage])
TOKENIZER = TypeAdapter(PublishedTokenizer)
TOKEN_IDS = TypeAdapter(list[int])


def read(record: TypeAdapter[Record], body: bytes) -> Record:
    """The record in `body`. Raises InvalidRequest naming the first field that is wrong."""
    try:
        return record.validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "body"
        raise InvalidRequest(f"{place}: {first['msg']}", field=place) from None


def read_reply(record: TypeAdapter[Record], body: bytes) -> Record:
    """The record in a service's answer. Raises RagError for a wrong one: the client is not at fault."""
    try:
        return record.validate_json(body)
    except ValidationError as error:
        raise RagError(f"a service's answer is not a {record}: {error.errors()[0]['msg']}") from error


def write(record: TypeAdapter[Record], value: Record) -> bytes:
    """`value` as JSON; `read` gives an equal record."""
    return record.dump_json(value)


def write_passages(passages: Sequence[Passage]) -> bytes:
    """Passages with unrounded scores; PASSAGES reads them."""
    return dump(
        [
            {
                "id": passage.id,
                "title": passage.title,
                "text": passage.text,
                "score": passage.score,
                "metadata": dict(passage.metadata),
            }
            for passage in passages
        ]
    )


def write_vectors(vectors: Vectors) -> bytes:
    """A .npy of little-endian float32."""
    buffer = io.BytesIO()
    np.save(buffer, vectors.astype("<f4", copy=False), allow_pickle=False)
    return buffer.getvalue()


def read_vectors(body: bytes) -> Vectors:
    """The vectors that write_vectors wrote. Raises ValueError for other content."""
    vectors: Vectors = np.load(io.BytesIO(body), allow_pickle=False)
    return vectors.astype(np.float32, copy=False)


def write_delta(delta: Delta) -> bytes:
    """One JSON line."""
    document: dict[str, Any] = {"text": delta.text, "new_tokens": delta.new_tokens}
    if delta.finish_reason is not None:
        document["finish_reason"] = delta.finish_reason
    if delta.token is not None:
        document["token"] = [delta.token.id, delta.token.text, delta.token.logprob, delta.token.top]
    return dump(document) + b"\n"


def write_failure(error: RagError) -> bytes:
    """The last line of a stream that failed."""
    return dump(error.body()) + b"\n"


def write_model_time(seconds: float) -> bytes:
    """The line after the last delta: the seconds spent waiting for the engine."""
    return dump({"model_s": round(seconds, 6)}) + b"\n"


def read_model_time(line: bytes) -> float | None:
    """The seconds in `line`, None for another line."""
    return from_json(line).get("model_s") if b'"model_s"' in line else None


def read_delta(line: bytes) -> Delta | None:
    """The delta in `line`, None for the line that opens the stream. Raises the error that the line carries."""
    document: Mapping[str, Any] = from_json(line)
    if "error" in document:
        raise _error(document)
    if "text" not in document:
        return None
    token = None
    if "token" in document:
        number, text, logprob, top = document["token"]
        token = TokenDetail(number, text, logprob, tuple((other, other_logprob) for other, other_logprob in top))
    return Delta(document["text"], document["new_tokens"], document.get("finish_reason"), token)


def _error(document: Mapping[str, Any]) -> RagError:
    try:
        return rebuilt(document)
    except ValueError:
        return GenerationFailed("the LLM service failed on this request")
