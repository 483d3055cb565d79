"""Request bodies, in three shapes, to one record: Ask.

    {"query": …}                  this project's
    {"inputs": …, "parameters"}   text-generation-inference's
    {"messages": […]}             OpenAI's chat completions

Unknown fields are refused by name rather than ignored: a misspelt `top_k` must not silently mean the default.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import from_json

from rag.answering.ask import Ask, Mode, Shape
from rag.errors import InvalidRequest
from rag.interfaces import Language, Message, Sampling, Scalar


def _greedy_or_sampled(temperature: float) -> float:
    if 0 < temperature < 0.01:
        raise ValueError("a temperature is 0 (greedy) or at least 0.01")
    return temperature


_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_StopText = Annotated[str, StringConstraints(min_length=1, max_length=64)]
_Filters = dict[str, Scalar | Annotated[list[Scalar], Field(min_length=1, max_length=64)]]
_TokenCount = Annotated[int, Field(ge=1, le=1_000_000)]
# Next to zero, scores divided by them overflow.
_Temperature = Annotated[float, Field(ge=0, le=10), AfterValidator(_greedy_or_sampled)]
_TopP = Annotated[float, Field(ge=0.001, le=1)]
_RepetitionPenalty = Annotated[float, Field(ge=0.01, le=10)]
_Seed = Annotated[int, Field(ge=0, lt=2**63)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]
_Stop = Annotated[list[_StopText], Field(max_length=8)] | _StopText

_MOST_TEXTS = 64
_DEEPEST_JSON = 64


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _RagOptions(_Body):
    mode: Mode = "answer"
    top_k: Annotated[int, Field(ge=1, le=50)] | None = None
    filters: _Filters = {}
    min_score: Annotated[float, Field(ge=0, le=1)] | None = None
    language: Language | None = None
    allow_long_context: bool = False


class _SamplingOptions(_Body):
    max_new_tokens: _TokenCount | None = None
    temperature: _Temperature = 0.0
    top_p: _TopP = 1.0
    repetition_penalty: _RepetitionPenalty = 1.0
    presence_penalty: _Penalty = 0.0
    frequency_penalty: _Penalty = 0.0
    seed: _Seed | None = None
    stop: _Stop | None = None

    def sampling(self, default_new_tokens: int, **more: Any) -> Sampling:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_new_tokens=self.max_new_tokens or default_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=self.seed,
            stop=tuple(stop),
            **more,
        )


class _RagBody(_RagOptions, _SamplingOptions):
    query: _Text | Annotated[list[_Text], Field(min_length=1, max_length=_MOST_TEXTS)]
    min_new_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    sampling_top_k: Annotated[int, Field(ge=0)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    stop_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=64)] = []
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool = False

    @model_validator(mode="after")
    def _list_is_for_embedding(self) -> _RagBody:
        if isinstance(self.query, list) and self.mode != "embed":
            raise ValueError('query may be a list only where mode is "embed"; send several questions as JSON Lines')
        return self

    def ask(self, default_new_tokens: int) -> Ask:
        texts = [self.query] if isinstance(self.query, str) else self.query
        sampling = self.sampling(
            default_new_tokens,
            min_new_tokens=self.min_new_tokens,
            top_k=self.sampling_top_k,
            min_p=self.min_p,
            stop_ids=tuple(self.stop_ids),
            logprobs=self.logprobs,
        )
        return _ask(texts, self, sampling, stream=self.stream, shape="rag")


class _TgiParameters(_SamplingOptions):
    top_k: Annotated[int, Field(ge=0)] | None = None
    do_sample: bool | None = None
    return_full_text: Literal[False] | None = None
    details: bool | None = None
    repetition_penalty: _RepetitionPenalty | None = None  # type: ignore[assignment]
    frequency_penalty: _Penalty | None = None  # type: ignore[assignment]
    temperature: _Temperature | None = None  # type: ignore[assignment]
    top_p: _TopP | None = None  # type: ignore[assignment]

    def tgi_sampling(self, default_new_tokens: int) -> Sampling:
        """TGI samples if do_sample is true, or if only a temperature is given; the default temperature is 1."""
        sampled = self.do_sample if self.do_sample is not None else self.temperature is not None
        filled = self.model_copy(
            update={
                "temperature": (self.temperature or 1.0) if sampled else 0.0,
                "top_p": self.top_p or 1.0,
                "repetition_penalty": self.repetition_penalty or 1.0,
                "frequency_penalty": self.frequency_penalty or 0.0,
            }
        )
        return filled.sampling(default_new_tokens, top_k=self.top_k or 0, logprobs=0 if self.details else None)


class _TgiBody(_Body):
    inputs: _Text
    parameters: _TgiParameters = _TgiParameters()
    stream: bool = False
    rag: _RagOptions = _RagOptions()

    def ask(self, default_new_tokens: int) -> Ask:
        sampling = self.parameters.tgi_sampling(default_new_tokens)
        return _ask([self.inputs], self.rag, sampling, stream=self.stream, shape="tgi")


class _TextPart(_Body):
    type: Literal["text"]
    text: _Text


class _ChatMessage(_Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: _Text | Annotated[list[_TextPart], Field(min_length=1)]
    name: str | None = None

    def message(self) -> Message:
        content = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        return Message("system" if self.role == "developer" else self.role, content)


class _StreamOptions(_Body):
    include_usage: bool = True


class _ChatBody(_Body):
    messages: Annotated[list[_ChatMessage], Field(min_length=1, max_length=256)]
    model: str | None = None
    max_tokens: _TokenCount | None = None
    max_completion_tokens: _TokenCount | None = None
    temperature: Annotated[_Temperature, Field(le=2)] = 0.0
    top_p: _TopP = 1.0
    n: Literal[1] = 1
    seed: _Seed | None = None
    stop: _Stop | None = None
    stream: bool = False
    stream_options: _StreamOptions | None = None
    presence_penalty: _Penalty = 0.0
    frequency_penalty: _Penalty = 0.0
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    user: str | None = None
    rag: _RagOptions = _RagOptions()

    @model_validator(mode="after")
    def _ends_in_a_question(self) -> _ChatBody:
        if self.messages[-1].role != "user":
            raise ValueError('the last of messages must have the role "user": it is the question')
        return self

    def ask(self, default_new_tokens: int) -> Ask:
        options = _SamplingOptions(
            max_new_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=self.seed,
            stop=self.stop,
        )
        *history, question = [message.message() for message in self.messages]
        return _ask(
            [question.content],
            self.rag,
            options.sampling(default_new_tokens, logprobs=self.top_logprobs if self.logprobs else None),
            stream=self.stream,
            shape="chat",
            history=tuple(history),
        )


_SHAPES: dict[str, type[_RagBody | _TgiBody | _ChatBody]] = {
    "query": _RagBody,
    "inputs": _TgiBody,
    "messages": _ChatBody,
}


def parse_json(body: bytes, *, default_new_tokens: int) -> Ask:
    """Raises InvalidRequest naming the field, its value and what is allowed."""
    try:
        document = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(
            f"the body is not JSON in UTF-8: {error}",
            field="body",
            remedy='send an object such as {"query": "Qual a capital do Brasil?"}',
        ) from None
    if not isinstance(document, dict):
        raise InvalidRequest(
            "the body must be a JSON object",
            field="body",
            value=type(document).__name__,
            remedy='send an object such as {"query": "Qual a capital do Brasil?"}',
        )
    named = [name for name in _SHAPES if name in document]
    if len(named) != 1:
        raise InvalidRequest(
            "exactly one of query, inputs and messages is needed",
            field=" and ".join(named) or "query",
            value=f"{len(named)} of them",
            limit=1,
            remedy='{"query": "…"}, {"inputs": "…"} or {"messages": […]}',
        )
    try:
        return _SHAPES[named[0]].model_validate(document).ask(default_new_tokens)
    except ValidationError as error:
        raise _explained(error) from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply", field="body", limit=_DEEPEST_JSON) from None


def closes_session(body: bytes) -> bool:
    """Whether the body is `{"close_session": true}`, which ends a session."""
    if b"close_session" not in body:
        return False
    try:
        return bool(from_json(body) == {"close_session": True})
    except ValueError:
        return False


def parse_text(body: bytes, *, default_new_tokens: int) -> Ask:
    """A text/plain body is the question."""
    try:
        question = body.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8: {error.reason} at byte {error.start}", field="body") from None
    if not question:
        raise InvalidRequest("the body is empty", field="body", value="", remedy="send the question as text")
    return Ask((question,), Sampling(max_new_tokens=default_new_tokens))


def _ask(
    texts: Sequence[str],
    options: _RagOptions,
    sampling: Sampling,
    *,
    stream: bool,
    shape: Shape,
    history: tuple[Message, ...] = (),
) -> Ask:
    return Ask(
        texts=tuple(texts),
        sampling=sampling,
        mode=options.mode,
        history=history,
        top_k=options.top_k,
        filters=options.filters,
        min_score=options.min_score,
        language=options.language,
        stream=stream,
        allow_long_context=options.allow_long_context,
        shape=shape,
    )


# pydantic reports one error for each member of a union and puts the member's name into the location: the first error
# is reported, without that name, which no client would recognise.
_UNION_MEMBER = re.compile(r"(constrained-)?(str|int|float|bool)|(list|dict|function)[\[-].*")


def _explained(error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"] if not _UNION_MEMBER.fullmatch(str(part))]
    context: dict[str, Any] = first.get("ctx", {})
    limit = next(
        (context[name] for name in ("le", "lt", "ge", "gt", "max_length", "min_length") if name in context), None
    )
    if limit is None:
        limit = context.get("expected")
    remedy = None
    if first["type"] == "extra_forbidden":
        remedy = "remove this unknown field (the README lists the fields)"
    missing = first["type"] == "missing"
    return InvalidRequest(
        f"{'.'.join(path) or 'body'}: {first['msg'].removeprefix('Value error, ')}",
        field=".".join(path) or "body",
        value=None if missing or not path else first["input"],
        limit=limit,
        remedy=remedy,
    )
