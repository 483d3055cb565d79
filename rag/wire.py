"""Answers, passages and events as bytes, in the shape that the request came in.

A stream is a row of JSON objects, framed as server-sent events or as JSON Lines. It ends in a typed event: `end` with
usage and finish_reason, or `error`. Clients must join frames themselves: SageMaker cuts the stream anywhere.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeAlias

from rag.errors import GenerationFailed, RagError
from rag.pipeline import Answer, Embedding, Run, Source
from rag.schema import Shape
from rag.seams import Passage

Framing: TypeAlias = Literal["sse", "jsonlines"]
Document: TypeAlias = dict[str, Any]

CONTENT_TYPES: dict[Framing, str] = {"sse": "text/event-stream", "jsonlines": "application/jsonlines"}

_CHAT_FINISH = {"stop": "stop", "length": "length"}  # OpenAI knows no word for a deadline: it is a length, too
_TGI_FINISH = {"stop": "eos_token", "length": "length"}


def dump(document: object) -> bytes:
    """Compact JSON in UTF-8, accents as themselves."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def passage_document(passage: Passage, *, cited: bool | None = None) -> Document:
    """A source as clients see it."""
    document: Document = {
        "id": passage.id,
        "title": passage.title,
        "text": passage.text,
        "score": round(passage.score, 4),
        "metadata": dict(passage.metadata),
    }
    return document if cited is None else {**document, "cited": cited}


def embedding_document(embedding: Embedding) -> Document:
    """The embed mode's answer."""
    return {
        "embeddings": [[round(float(component), 7) for component in row] for row in embedding.vectors],
        "dimension": int(embedding.vectors.shape[1]),
        "model": embedding.model,
    }


def answer_document(answer: Answer, shape: Shape) -> Document:
    """A whole answer."""
    if shape == "chat":
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": answer.text},
            "finish_reason": _CHAT_FINISH.get(answer.finish_reason, "length"),
        }
        return {
            "id": f"chatcmpl-{answer.id}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": answer.model,
            "choices": [choice],
            "usage": _usage(answer),
            "rag": _findings(answer),
        }
    if shape == "tgi":
        return {"generated_text": answer.text, "details": _tgi_details(answer)}
    return {
        "id": answer.id,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "usage": _usage(answer),
        "model": answer.model,
        **_findings(answer),
    }


def stream(run: Run, shape: Shape, framing: Framing) -> Iterator[bytes]:
    """The frames of a run. An error after the first byte becomes the last event: the status has long been sent."""
    try:
        for event in _EVENTS[shape](run):
            yield _framed(event, framing)
    except RagError as error:
        yield _framed({"type": "error", **error.body()}, framing)
    except Exception:
        yield _framed({"type": "error", **GenerationFailed("the answer could not be completed").body()}, framing)
        raise
    finally:
        run.close()
    if shape == "chat" and framing == "sse":
        yield b"data: [DONE]\n\n"


def _rag_events(run: Run) -> Iterable[Document]:
    yield {"type": "sources", "id": run.id, "sources": [passage_document(passage) for passage in run.passages]}
    for piece in run:
        if isinstance(piece, Answer):
            yield {"type": "end", **answer_document(piece, "rag")}
        else:
            yield {"type": "text", "text": piece}


def _tgi_events(run: Run) -> Iterable[Document]:
    for index, piece in enumerate(run, start=1):
        last = isinstance(piece, Answer)
        text = "" if isinstance(piece, Answer) else piece
        yield {
            "index": index,
            "token": {"id": None, "text": text, "logprob": None, "special": last},
            "generated_text": piece.text if isinstance(piece, Answer) else None,
            "details": _tgi_details(piece) if isinstance(piece, Answer) else None,
        }


def _chat_events(run: Run) -> Iterable[Document]:
    head = {
        "id": f"chatcmpl-{run.id}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": run.model,
    }
    yield {**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
    for piece in run:
        if isinstance(piece, Answer):
            reason = _CHAT_FINISH.get(piece.finish_reason, "length")
            yield {
                **head,
                "choices": [{"index": 0, "delta": {}, "finish_reason": reason}],
                "usage": _usage(piece),
                "rag": _findings(piece),
            }
        else:
            yield {**head, "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}


_EVENTS = {"rag": _rag_events, "tgi": _tgi_events, "chat": _chat_events}


def _framed(event: Document, framing: Framing) -> bytes:
    if framing == "jsonlines":
        return dump(event) + b"\n"
    name = f"event: {event['type']}\n".encode() if "type" in event else b""
    return name + b"data: " + dump(event) + b"\n\n"


def _usage(answer: Answer) -> Document:
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
    }


def _findings(answer: Answer) -> Document:
    return {
        "sources": [_source(source) for source in answer.sources],
        "grounded": answer.grounded,
        "grounding_score": answer.grounding_score,
        "language": answer.language,
        "timings": dict(answer.timings),
    }


def _source(source: Source) -> Document:
    return passage_document(source.passage, cited=source.cited)


def _tgi_details(answer: Answer) -> Document:
    return {
        "finish_reason": _TGI_FINISH.get(answer.finish_reason, "length"),
        "generated_tokens": answer.completion_tokens,
        "prefill_tokens": answer.prompt_tokens,
        **_findings(answer),
    }
