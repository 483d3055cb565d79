"""The HTTP application over fakes: SageMaker's contract, three request shapes, two stream framings, and errors."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from inference import create_app
from rag.errors import IndexRefused
from rag.serving.lifecycle import Boot
from rag.settings import Settings
from tests.fakes import BROKEN, PASSAGES, FakeGenerator, fake_pipeline


@pytest.fixture
def generator() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
def client(generator: FakeGenerator) -> FlaskClient:
    return client_of(generator)


def client_of(generator: FakeGenerator, **settings: Any) -> FlaskClient:
    ready = threading.Event()
    boot = Boot(lambda _: fake_pipeline(generator), ready.set)
    boot.start()
    assert ready.wait(5)
    return create_app(Settings(**settings), boot).test_client()


def ask(client: FlaskClient, document: Any, **headers: str) -> TestResponse:
    return client.post("/invocations", json=document, headers=headers)


def events(response: TestResponse) -> list[Any]:
    return [
        json.loads(line.removeprefix("data: "))
        for line in response.text.splitlines()
        if line and not line.startswith("event:") and line != "data: [DONE]"
    ]


def test_ping_is_empty_and_200_once_loaded(client: FlaskClient) -> None:
    response = client.get("/ping")
    assert (response.status_code, response.data) == (200, b"")


def test_ping_and_requests_get_503_with_the_phase_while_loading() -> None:
    go_on, in_phase = threading.Event(), threading.Event()

    def load(on_phase: Any) -> Any:
        on_phase("loading the LLM")
        in_phase.set()
        go_on.wait(5)
        return fake_pipeline()

    boot = Boot(load)
    client = create_app(Settings(), boot).test_client()
    boot.start()
    assert in_phase.wait(5)
    for response in (client.get("/ping"), ask(client, {"query": "q"})):
        assert response.status_code == 503
        assert response.get_json()["error"]["value"] == "loading the LLM"
        assert response.get_json()["error"]["retryable"] is True
    go_on.set()


def test_ping_gives_the_reason_when_loading_failed() -> None:
    failed = threading.Event()

    def load(_: Any) -> Any:
        failed.set()
        raise IndexRefused("chunks.jsonl is damaged", remedy="run `make index`")

    boot = Boot(load)
    client = create_app(Settings(), boot).test_client()
    boot.start()
    assert failed.wait(5)
    boot.join()
    response = client.get("/ping")
    assert response.status_code == 503
    assert "chunks.jsonl is damaged" in response.get_json()["error"]["message"]


def test_ping_fails_when_the_engine_has_died(client: FlaskClient, generator: FakeGenerator) -> None:
    generator.alive = False
    assert client.get("/ping").status_code == 503


def test_an_answer_carries_its_sources_grounding_usage_and_timings(client: FlaskClient) -> None:
    document = ask(client, {"query": "Qual a capital do Brasil?"}).get_json()
    assert document["text"] == "Brasília."
    assert document["grounded"] is True
    assert [(source["id"], source["cited"]) for source in document["sources"]] == [
        (PASSAGES[0].id, True),
        (PASSAGES[1].id, True),
    ]
    assert set(document["sources"][0]) == {"id", "title", "text", "score", "metadata", "cited"}
    assert document["usage"]["completion_tokens"] == 3
    assert document["usage"]["total_tokens"] == document["usage"]["prompt_tokens"] + 3
    assert document["finish_reason"] == "stop"
    assert document["language"] == "pt"
    assert {"retrieve_s", "prompt_s", "first_token_s", "generate_s", "total_s"} <= set(document["timings"])


def test_an_answer_without_support_is_not_grounded(client: FlaskClient, generator: FakeGenerator) -> None:
    generator.pieces = ("Buenos Aires",)
    document = ask(client, {"query": "Qual a capital do Brasil?"}).get_json()
    assert document["grounded"] is False
    assert not any(source["cited"] for source in document["sources"])


def test_without_passages_a_fixed_text_is_the_answer(client: FlaskClient, generator: FakeGenerator) -> None:
    for question, text in (("Qual a capital?", "As passagens não dizem."), ("Which one?", "The passages do not say.")):
        document = ask(client, {"query": question, "min_score": 0.95}).get_json()
        assert (document["text"], document["grounded"], document["sources"]) == (text, False, [])
        assert (document["usage"]["completion_tokens"], document["finish_reason"]) == (0, "stop")
    assert generator.asked == []


def test_the_retrieve_mode_gives_passages_without_generating(client: FlaskClient, generator: FakeGenerator) -> None:
    document = ask(client, {"query": "q", "mode": "retrieve", "top_k": 3, "filters": {"language": "pt"}}).get_json()
    assert [source["id"] for source in document["sources"]] == [PASSAGES[0].id, PASSAGES[2].id]
    assert generator.asked == []


def test_the_generate_mode_asks_the_model_without_passages(client: FlaskClient, generator: FakeGenerator) -> None:
    document = ask(client, {"query": "Conte algo", "mode": "generate"}).get_json()
    assert document["sources"] == []
    assert [message.content for message in generator.asked[0][0]] == ["Conte algo"]


def test_the_generate_mode_does_not_wait_for_the_question_s_language(
    client: FlaskClient, generator: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_before: list[int] = []

    def detect(_text: str) -> str:
        asked_before.append(len(generator.asked))
        return "en"

    monkeypatch.setattr("rag.answering.pipeline.detect_language", detect)
    reply = client.post("/invocations", json={"query": "Once upon a time", "mode": "generate"})
    assert reply.get_json()["language"] == "en"
    assert asked_before == [1]


def test_the_embed_mode_gives_a_vector_a_text(client: FlaskClient) -> None:
    document = ask(client, {"query": ["a", "b"], "mode": "embed"}).get_json()
    assert (len(document["embeddings"]), document["dimension"], document["model"]) == (2, 8, "fake-embedder")


def test_tgi_s_shape_is_answered_in_tgi_s_shape(client: FlaskClient, generator: FakeGenerator) -> None:
    document = ask(client, {"inputs": "q", "parameters": {"max_new_tokens": 5, "seed": 1}}).get_json()
    assert document["generated_text"] == "Brasília."
    assert document["details"]["generated_tokens"] == 3
    assert generator.asked[0][1].max_new_tokens == 5


def test_openai_s_shape_is_answered_in_openai_s_shape(client: FlaskClient) -> None:
    document = ask(client, {"messages": [{"role": "user", "content": "q"}]}).get_json()
    assert document["object"] == "chat.completion"
    assert document["choices"][0]["message"] == {"role": "assistant", "content": "Brasília."}
    assert document["choices"][0]["finish_reason"] == "stop"
    assert document["usage"]["completion_tokens"] == 3


def test_logprobs_are_in_the_format_of_each_shape(client: FlaskClient, generator: FakeGenerator) -> None:
    own = ask(client, {"query": "q", "logprobs": 1}).get_json()
    assert own["tokens"][0] == {"id": 0, "text": "Brasí", "logprob": -0.5, "top": [{"text": "Rio", "logprob": -1.5}]}
    tgi = ask(client, {"inputs": "q", "parameters": {"details": True}}).get_json()
    assert [token["text"] for token in tgi["details"]["tokens"]] == ["Brasí", "lia", "."]
    question = [{"role": "user", "content": "q"}]
    chat = ask(client, {"messages": question, "logprobs": True, "top_logprobs": 1}).get_json()
    first = chat["choices"][0]["logprobs"]["content"][0]
    assert (first["token"], first["bytes"]) == ("Brasí", list("Brasí".encode()))
    assert first["top_logprobs"][0]["token"] == "Rio"
    streamed = events(ask(client, {"query": "q", "logprobs": 0, "stream": True}))
    assert streamed[1]["token"]["logprob"] == -0.5


def test_plain_text_in_and_plain_text_out(client: FlaskClient) -> None:
    response = client.post(
        "/invocations",
        data=b"Qual a capital?",
        content_type="text/plain; charset=utf-8",
        headers={"Accept": "text/plain"},
    )
    assert response.text == "Brasília."
    assert response.mimetype == "text/plain"


@pytest.mark.parametrize(
    ("document", "headers", "mimetype"),
    [
        ({"query": "q", "stream": True}, {}, "text/event-stream"),
        ({"query": "q"}, {"Accept": "text/event-stream"}, "text/event-stream"),
        ({"query": "q", "stream": True}, {"Accept": "application/jsonlines"}, "application/jsonlines"),
        (
            {"query": "q"},
            {"X-Amzn-SageMaker-Accept": "application/jsonlines", "Accept": "*/*"},
            "application/jsonlines",
        ),
    ],
)
def test_a_stream_has_sources_then_text_then_a_typed_end(
    client: FlaskClient, generator: FakeGenerator, document: Any, headers: dict[str, str], mimetype: str
) -> None:
    response = ask(client, document, **headers)
    assert response.mimetype == mimetype
    first, *texts, last = events(response)
    assert [source["id"] for source in first["sources"]] == [PASSAGES[0].id, PASSAGES[1].id]
    assert [event["text"] for event in texts] == ["Brasí", "lia", "."]
    assert (last["type"], last["text"], last["finish_reason"]) == ("end", "Brasília.", "stop")
    assert last["usage"]["completion_tokens"] == 3
    assert generator.open == 0


def test_a_tgi_stream_ends_in_the_generated_text(client: FlaskClient) -> None:
    *tokens, last = events(ask(client, {"inputs": "q", "stream": True}))
    assert "".join(event["token"]["text"] for event in tokens) == "Brasília."
    assert last["generated_text"] == "Brasília."
    assert last["details"]["finish_reason"] == "eos_token"


def test_an_openai_stream_is_chunks_and_done(client: FlaskClient) -> None:
    response = ask(client, {"messages": [{"role": "user", "content": "q"}], "stream": True})
    chunks = events(response)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "Brasília."
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == 3
    assert response.text.endswith("data: [DONE]\n\n")


def test_a_stream_that_fails_ends_in_a_typed_error(client: FlaskClient, generator: FakeGenerator) -> None:
    generator.pieces = ("Bra", BROKEN)
    response = ask(client, {"query": "q", "stream": True})
    assert response.status_code == 200
    last = events(response)[-1]
    assert (last["type"], last["error"]["code"]) == ("error", "generation_failed")
    assert generator.open == 0


def test_a_failed_plain_answer_is_a_500_with_its_code(client: FlaskClient, generator: FakeGenerator) -> None:
    generator.pieces = (BROKEN,)
    response = ask(client, {"query": "q"})
    assert (response.status_code, response.get_json()["error"]["code"]) == (500, "generation_failed")
    assert generator.open == 0


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_a_client_that_disconnects_cancels_its_generation(
    client: FlaskClient, generator: FakeGenerator, taken: int
) -> None:
    response = client.post("/invocations", json={"query": "q", "stream": True}, buffered=False)
    frames = iter(response.iter_encoded())
    for _ in range(taken):
        next(frames)
    assert generator.open == 1
    response.close()
    assert generator.open == 0


def test_a_batch_answers_every_line_in_order_and_a_bad_line_fails_alone(client: FlaskClient) -> None:
    lines = b'{"query": "a"}\n{"query": 5}\n\n{"inputs": "b"}\n'
    response = client.post("/invocations", data=lines, content_type="application/jsonlines")
    first, second, third = map(json.loads, response.text.splitlines())
    assert first["text"] == third["generated_text"] == "Brasília."
    assert second["error"]["field"] == "query"


def test_custom_attributes_come_back_and_unknown_headers_are_ignored(client: FlaskClient) -> None:
    name = "X-Amzn-SageMaker-Custom-Attributes"
    headers = {name: "trace=7", "X-Amzn-SageMaker-Inference-Id": "i", "X-Amzn-SageMaker-Target-Model": "m"}
    assert ask(client, {"query": "q"}, **headers).headers[name] == "trace=7"
    assert ask(client, {"query": 5}, **headers).headers[name] == "trace=7"
    assert name not in ask(client, {"query": "q"}).headers


def test_execution_parameters_tell_batch_transform_what_fits() -> None:
    document = client_of(FakeGenerator(), concurrency=5).get("/execution-parameters").get_json()
    assert document == {"MaxConcurrentTransforms": 5, "BatchStrategy": "SINGLE_RECORD", "MaxPayloadInMB": 6}


@pytest.mark.parametrize(
    ("body", "content_type", "accept", "status", "code"),
    [
        (b"{", "application/json", "*/*", 400, "invalid_request"),
        (b"x" * 7_000_000, "application/json", "*/*", 413, "payload_too_large"),
        (b"<q/>", "application/xml", "*/*", 415, "unsupported_media"),
        (b'{"query": "q"}', "application/json", "image/png", 406, "not_acceptable"),
        (b'{"query": "q", "max_new_tokens": 5000}', "application/json", "*/*", 422, "prompt_too_long"),
        (b'{"query": "' + b"q " * 1000 + b'"}', "application/json", "*/*", 422, "prompt_too_long"),
        (b'{"query": "' + b"q" * 100_000 + b'"}', "application/json", "*/*", 422, "prompt_too_long"),
        (b"", "application/jsonlines", "*/*", 400, "invalid_request"),
        (b"{}\n" * 300, "application/jsonlines", "*/*", 400, "invalid_request"),
    ],
)
def test_bad_requests_get_a_small_error_body(
    client: FlaskClient, body: bytes, content_type: str, accept: str, status: int, code: str
) -> None:
    response = client.post("/invocations", data=body, content_type=content_type, headers={"Accept": accept})
    assert (response.status_code, response.get_json()["error"]["code"]) == (status, code)
    assert response.get_json()["error"]["retryable"] is False
    assert len(response.data) < 2048


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/invocations", 405), ("POST", "/nothing", 404)])
def test_other_paths_and_methods_are_refused_in_json(client: FlaskClient, method: str, path: str, status: int) -> None:
    response = client.open(path, method=method)
    assert (response.status_code, response.get_json()["error"]["code"]) == (status, "invalid_request")


def test_more_requests_than_places_get_429_and_a_time_to_retry(generator: FakeGenerator) -> None:
    client = client_of(generator, concurrency=1, queue=1)
    held = [client.post("/invocations", json={"query": "q", "stream": True}, buffered=False) for _ in range(2)]
    refused = ask(client, {"query": "q"})
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert refused.get_json()["error"]["retryable"] is True
    assert client.get("/ping").status_code == 200
    for response in held:
        response.close()
    assert ask(client, {"query": "q"}).status_code == 200
