"""Answers, passages and events as bytes, in the shape of the request.

A stream is a sequence of JSON objects, framed as server-sent events or as JSON Lines. Its last event is `end`, with
usage and finish_reason, or `error`. Clients must reassemble frames: SageMaker splits the stream at any byte.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

from rag.answering.ask import Shape
from rag.answering.pipeline import Embedding
from rag.answering.run import Answer, Run, Source
from rag.errors import GenerationFailed, RagError
from rag.interfaces import Passage, TokenDetail

Framing: TypeAlias = Literal["sse", "jsonlines"]
Document: TypeAlias = dict[str, Any]

CONTENT_TYPES: dict[Framing, str] = {"sse": "text/event-stream", "jsonlines": "application/jsonlines"}

_CHAT_FINISH = {"stop": "stop", "length": "length"}  # OpenAI has no value for a deadline: "length" is the nearest
_TGI_FINISH = {"stop": "eos_token", "length": "length"}


def dump(document: object) -> bytes:
    """Compact JSON in UTF-8, accents not escaped."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def passage_document(passage: Passage, *, cited: bool | None = None) -> Document:
    """A passage as a source in an answer."""
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
            **_chat_logprobs(answer.tokens),
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
        **({"tokens": [_token(detail) for detail in answer.tokens]} if answer.tokens else {}),
    }


def stream(run: Run, shape: Shape, framing: Framing) -> Iterator[bytes]:
    """The frames of a run. An error becomes the last event, since the HTTP status has been sent already."""
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
            token = {} if piece.token is None else {"token": _token(piece.token)}
            yield {"type": "text", "text": piece.text, **token}


def _tgi_events(run: Run) -> Iterable[Document]:
    for index, piece in enumerate(run, start=1):
        if isinstance(piece, Answer):
            token: Document = {"id": None, "text": "", "logprob": None, "special": True}
            yield {"index": index, "token": token, "generated_text": piece.text, "details": _tgi_details(piece)}
        else:
            token = {
                "id": piece.token and piece.token.id,
                "text": piece.text,
                "logprob": piece.token and piece.token.logprob,
                "special": False,
            }
            yield {"index": index, "token": token, "generated_text": None, "details": None}


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
            choice = {"index": 0, "delta": {"content": piece.text}, "finish_reason": None}
            yield {**head, "choices": [{**choice, **_chat_logprobs(() if piece.token is None else (piece.token,))}]}


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


def _token(detail: TokenDetail) -> Document:
    top = [{"text": text, "logprob": round(logprob, 5)} for text, logprob in detail.top]
    return {"id": detail.id, "text": detail.text, "logprob": round(detail.logprob, 5), **({"top": top} if top else {})}


def _chat_logprobs(tokens: Sequence[TokenDetail]) -> Document:
    """The `logprobs` of an OpenAI choice; absent unless requested."""

    def entry(text: str, logprob: float) -> Document:
        return {"token": text, "logprob": round(logprob, 5), "bytes": list(text.encode())}

    if not tokens:
        return {}
    content = [
        {**entry(detail.text, detail.logprob), "top_logprobs": [entry(*alternative) for alternative in detail.top]}
        for detail in tokens
    ]
    return {"logprobs": {"content": content}}


def _tgi_details(answer: Answer) -> Document:
    tokens = [{**_token(detail), "special": False} for detail in answer.tokens]
    return {
        **({"tokens": tokens} if tokens else {}),
        "finish_reason": _TGI_FINISH.get(answer.finish_reason, "length"),
        "generated_tokens": answer.completion_tokens,
        "prefill_tokens": answer.prompt_tokens,
        **_findings(answer),
    }
