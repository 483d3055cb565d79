"""Request bodies: three shapes to one record, or an error that names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.answering.ask import Ask
from rag.errors import InvalidRequest
from rag.interfaces import Message
from rag.serving.requests import parse_json, parse_text


def parsed(document: Any) -> Ask:
    return parse_json(json.dumps(document).encode(), default_new_tokens=64)


def refusal(body: bytes | Any) -> InvalidRequest:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(InvalidRequest) as raised:
        parse_json(raw, default_new_tokens=64)
    return raised.value


def test_a_bare_query_is_answered_greedily_with_the_deployment_s_defaults() -> None:
    ask = parsed({"query": "  Qual a capital do Brasil? "})
    assert (ask.question, ask.mode, ask.top_k, ask.stream) == ("Qual a capital do Brasil?", "answer", None, False)
    assert (ask.sampling.max_new_tokens, ask.sampling.temperature) == (64, 0.0)


def test_every_option_of_the_project_s_shape_is_read() -> None:
    ask = parsed(
        {
            "query": "q",
            "mode": "retrieve",
            "top_k": 7,
            "filters": {"language": "pt", "year": [2024, 2025]},
            "min_score": 0.2,
            "language": "en",
            "max_new_tokens": 5,
            "temperature": 0.7,
            "top_p": 0.9,
            "sampling_top_k": 40,
            "seed": 3,
            "stop": "\n",
            "stream": True,
            "min_p": 0.1,
            "min_new_tokens": 2,
            "repetition_penalty": 1.1,
            "presence_penalty": 0.3,
            "frequency_penalty": -0.3,
            "stop_ids": [9],
            "logprobs": 4,
        }
    )
    assert (ask.mode, ask.top_k, ask.min_score, ask.language, ask.stream) == ("retrieve", 7, 0.2, "en", True)
    assert ask.filters == {"language": "pt", "year": [2024, 2025]}
    sampling = ask.sampling
    assert (sampling.max_new_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (5, 0.7, 0.9, 40)
    assert (sampling.seed, sampling.stop, sampling.stop_ids) == (3, ("\n",), (9,))
    assert (sampling.min_p, sampling.min_new_tokens, sampling.logprobs) == (0.1, 2, 4)
    penalties = (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty)
    assert penalties == (1.1, 0.3, -0.3)


@pytest.mark.parametrize(
    ("parameters", "temperature"),
    [
        ({}, 0.0),
        ({"temperature": 0.5}, 0.5),
        ({"do_sample": True}, 1.0),
        ({"do_sample": False, "temperature": 0.5}, 0.0),
    ],
)
def test_tgi_samples_only_when_asked_to(parameters: dict[str, Any], temperature: float) -> None:
    ask = parsed({"inputs": "q", "parameters": {"max_new_tokens": 9, **parameters}})
    assert ask.shape == "tgi"
    assert (ask.sampling.max_new_tokens, ask.sampling.temperature) == (9, temperature)


def test_a_chat_s_last_message_is_the_question_and_the_others_its_history() -> None:
    ask = parsed(
        {
            "messages": [
                {"role": "system", "content": "Seja breve."},
                {"role": "user", "content": "Oi"},
                {"role": "assistant", "content": "Olá"},
                {"role": "user", "content": [{"type": "text", "text": "Qual a capital?"}]},
            ],
            "model": "anything",
            "max_tokens": 12,
            "rag": {"top_k": 1},
        }
    )
    assert (ask.shape, ask.question, ask.top_k) == ("chat", "Qual a capital?", 1)
    assert ask.history == (Message("system", "Seja breve."), Message("user", "Oi"), Message("assistant", "Olá"))
    assert ask.sampling.max_new_tokens == 12


def test_several_texts_are_embedded_at_once_and_never_answered_as_one() -> None:
    assert parsed({"query": ["a", "b"], "mode": "embed"}).texts == ("a", "b")
    assert "embed" in refusal({"query": ["a", "b"]}).message


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"\xff\xfe{}", "body"),
        (b'{"query": "\\ud800"}', "body"),
        (b"[" * 100_000, "body"),
        (b'{"a":' * 100_000, "body"),
        (b'{"query": "q", "temperature": NaN}', "body"),
        (b"[]", "body"),
        (b"null", "body"),
        (b"{}", "query"),
        (b'{"query": "q", "inputs": "q"}', "query and inputs"),
        (b'{"query": ""}', "query"),
        (b'{"query": "   "}', "query"),
        (b'{"query": null}', "query"),
        (b'{"query": 5}', "query"),
        (b'{"query": {"a": 1}}', "query"),
        (b'{"query": "q", "top_k": -1}', "top_k"),
        (b'{"query": "q", "top_k": "3"}', "top_k"),
        (b'{"query": "q", "top_k": 1e999}', "top_k"),
        (b'{"query": "q", "max_new_tokens": 0}', "max_new_tokens"),
        (b'{"query": "q", "max_new_tokens": -5}', "max_new_tokens"),
        (b'{"query": "q", "temperature": -0.1}', "temperature"),
        (b'{"query": "q", "seed": -1}', "seed"),
        (b'{"query": "q", "stream": "yes"}', "stream"),
        (b'{"query": "q", "mode": "sing"}', "mode"),
        (b'{"query": "q", "topk": 3}', "topk"),
        (b'{"query": "q", "filters": {"a": {"b": 1}}}', "filters.a"),
        (b'{"inputs": "q", "parameters": {"return_full_text": true}}', "parameters.return_full_text"),
        (b'{"inputs": "q", "parameters": {"repetition_penalty": 0}}', "parameters.repetition_penalty"),
        (b'{"messages": []}', "messages"),
        (b'{"messages": [{"role": "user"}]}', "messages.0.content"),
        (b'{"messages": [{"role": "wizard", "content": "q"}]}', "messages.0.role"),
        (b'{"messages": [{"role": "assistant", "content": "q"}]}', "body"),
        (b'{"messages": [{"role": "user", "content": "q"}], "n": 2}', "n"),
    ],
)
def test_bad_input_is_refused_by_the_name_of_the_field(body: bytes, field: str) -> None:
    assert refusal(body).field == field


def test_a_refusal_carries_the_value_and_the_limit() -> None:
    refused = refusal({"query": "q", "top_k": 51})
    assert (refused.value, refused.limit) == (51, 50)
    assert "top_k" in refused.message


def test_plain_text_is_the_question() -> None:
    assert parse_text("Olá, João? ".encode(), default_new_tokens=4).question == "Olá, João?"
    for bad in (b"", b"  ", b"\xe7"):
        with pytest.raises(InvalidRequest):
            parse_text(bad, default_new_tokens=4)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["query", "inputs", "messages", "parameters", "top_k", "filters", "mode", "stop", "stream", "rag", "temperature"]
)


@given(st.dictionaries(FIELDS, JSON, max_size=6) | JSON)
def test_any_json_is_parsed_or_refused_without_another_error(document: Any) -> None:
    try:
        ask = parsed(document)
    except InvalidRequest as error:
        assert len(json.dumps(error.body(), ensure_ascii=False).encode()) < 2048
    else:
        assert ask.question.strip()


@given(st.binary(max_size=64))
def test_any_bytes_are_parsed_or_refused_without_another_error(body: bytes) -> None:
    for parse in (parse_json, parse_text):
        try:
            parse(body, default_new_tokens=4)
        except InvalidRequest as error:
            assert error.field


@pytest.mark.parametrize("field", ["temperature", "top_p", "repetition_penalty"])
@pytest.mark.parametrize("shape", ['{"query": "q", %s}', '{"inputs": "q", "parameters": {%s}}'])
def test_numbers_next_to_zero_are_refused_by_name(field: str, shape: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_json((shape % f'"{field}": 1e-300').encode(), default_new_tokens=8)
    assert refused.value.field is not None
    assert field in refused.value.field


def test_a_refusal_is_small_and_strict_json_whatever_number_was_sent() -> None:
    for number in ("1e999", "-1e999", "9" * 4000):
        with pytest.raises(InvalidRequest) as refused:
            parse_json(f'{{"query": "q", "min_score": {number}}}'.encode(), default_new_tokens=8)
        body = json.dumps(refused.value.body(), allow_nan=False)
        assert len(body) < 2048
