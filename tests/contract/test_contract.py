"""SageMaker's contract and the README's examples, over HTTP: the same tests for a process, an image or an endpoint.

ENDPOINT_URL=http://host:port selects a running server.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

PORTUGUESE, ENGLISH = "Qual a capital do Brasil?", "What is the capital of Brazil?"


def ask(client: httpx.Client, document: Any, **headers: str) -> Any:
    response = client.post("/invocations", json=document, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


def streamed(client: httpx.Client, document: Any, accept: str) -> Iterator[Any]:
    with client.stream("POST", "/invocations", json=document, headers={"Accept": accept}) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            text = line.removeprefix("data: ")
            if text.startswith("{"):
                yield json.loads(text)


def test_ping_is_200_and_empty(client: httpx.Client) -> None:
    response = client.get("/ping")
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize(("question", "language"), [(PORTUGUESE, "pt"), (ENGLISH, "en")])
def test_the_capital_of_brazil_is_answered_with_its_source(client: httpx.Client, question: str, language: str) -> None:
    document = ask(client, {"query": question})
    assert "Brasília" in document["text"]
    assert document["language"] == language
    assert document["grounded"] is True
    cited = [source for source in document["sources"] if source["cited"]]
    assert cited
    assert all("Brasília" in source["title"] + source["text"] for source in cited)


@pytest.mark.parametrize("accept", ["text/event-stream", "application/jsonlines"])
def test_a_stream_adds_up_to_the_plain_answer(client: httpx.Client, accept: str) -> None:
    plain = ask(client, {"query": PORTUGUESE})
    first, *middle, last = streamed(client, {"query": PORTUGUESE}, accept)
    assert (first["type"], last["type"]) == ("sources", "end")
    assert "".join(event["text"] for event in middle).strip() == last["text"] == plain["text"]
    assert last["usage"] == plain["usage"]
    assert last["finish_reason"] == plain["finish_reason"]


def test_the_three_shapes_give_the_same_answer(client: httpx.Client) -> None:
    text = ask(client, {"query": ENGLISH})["text"]
    assert ask(client, {"inputs": ENGLISH})["generated_text"] == text
    chat = ask(client, {"messages": [{"role": "user", "content": ENGLISH}]})
    assert chat["choices"][0]["message"]["content"] == text
    response = client.post(
        "/invocations", content=ENGLISH, headers={"Content-Type": "text/plain", "Accept": "text/plain"}
    )
    assert response.text == text


def test_a_seed_repeats_a_sampled_answer(client: httpx.Client) -> None:
    body = {"query": PORTUGUESE, "mode": "generate", "temperature": 1.5, "seed": 9, "max_new_tokens": 12}
    assert ask(client, body)["text"] == ask(client, body)["text"]


def test_max_new_tokens_is_respected(client: httpx.Client) -> None:
    document = ask(client, {"query": PORTUGUESE, "max_new_tokens": 1})
    assert document["usage"]["completion_tokens"] == 1
    assert document["finish_reason"] == "length"


def test_the_retrieve_mode_gives_filtered_passages_without_an_answer(client: httpx.Client) -> None:
    document = ask(client, {"query": PORTUGUESE, "mode": "retrieve", "top_k": 5, "filters": {"language": "en"}})
    assert len(document["sources"]) == 5
    assert {source["metadata"]["language"] for source in document["sources"]} == {"en"}
    assert "text" not in document


def test_embeddings_are_unit_vectors(client: httpx.Client) -> None:
    document = ask(client, {"query": ["um", "dois"], "mode": "embed"})
    assert len(document["embeddings"]) == 2
    for vector in document["embeddings"]:
        assert len(vector) == document["dimension"]
        assert sum(component**2 for component in vector) == pytest.approx(1, abs=1e-4)


def test_a_batch_of_json_lines_is_answered_line_by_line(client: httpx.Client) -> None:
    lines = "\n".join(json.dumps({"query": question}) for question in (PORTUGUESE, ENGLISH)) + '\n{"query": ""}\n'
    response = client.post("/invocations", content=lines, headers={"Content-Type": "application/jsonlines"})
    first, second, third = map(json.loads, response.text.splitlines())
    assert "Brasília" in first["text"]
    assert "Brasília" in second["text"]
    assert third["error"]["field"] == "query"


def test_custom_attributes_are_echoed(client: httpx.Client) -> None:
    response = client.post(
        "/invocations", json={"query": PORTUGUESE}, headers={"X-Amzn-SageMaker-Custom-Attributes": "trace=1"}
    )
    assert response.headers["X-Amzn-SageMaker-Custom-Attributes"] == "trace=1"


def test_execution_parameters_are_sagemaker_s(client: httpx.Client) -> None:
    document = client.get("/execution-parameters").json()
    assert set(document) == {"MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"not json", 400),
        (b"\xff\xfe", 400),
        (b"[" * 50_000, 400),
        (b'{"query": ""}', 400),
        (b'{"query": 7}', 400),
        (b'{"query": "q", "top_k": -3}', 400),
        (b'{"query": "q", "unknown": 1}', 400),
        (b'{"query": "q", "filters": {"no such field": "x"}}', 400),
        (b'{"query": "q", "max_new_tokens": 100000}', 422),
        (b'{"query": "' + b"palavra " * 20_000 + b'"}', 422),
        (b'{"query": "' + b"x" * 7_000_000 + b'"}', 413),
    ],
)
def test_bad_input_is_a_clear_4xx(client: httpx.Client, body: bytes, status: int) -> None:
    response = client.post("/invocations", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status
    error = response.json()["error"]
    assert error["field"]
    assert error["message"]
    assert len(response.content) < 2048


def test_random_bytes_never_cause_a_5xx(client: httpx.Client) -> None:
    drawn = random.Random(3)
    valid = json.dumps({"query": PORTUGUESE, "top_k": 2, "stop": ["x"], "max_new_tokens": 2}).encode()
    for _ in range(150):
        body = bytearray(valid)
        for _ in range(drawn.randrange(1, 6)):
            body[drawn.randrange(len(body))] = drawn.randrange(256)
        response = client.post("/invocations", content=bytes(body), headers={"Content-Type": "application/json"})
        assert response.status_code < 500, (bytes(body), response.text)


def test_concurrent_requests_get_the_same_answers_as_single_ones(client: httpx.Client) -> None:
    questions = [PORTUGUESE, ENGLISH, "Quem escreveu Dom Casmurro?", "What does /ping return?"]
    alone = {question: ask(client, {"query": question})["text"] for question in questions}

    def answer(place: int) -> tuple[str, str]:
        question = questions[place % len(questions)]
        if place % 3:
            return question, ask(client, {"query": question})["text"]
        *_, last = streamed(client, {"query": question}, "text/event-stream")
        return question, last["text"]

    with ThreadPoolExecutor(16) as threads:
        for question, text in threads.map(answer, range(48)):
            assert text == alone[question]


def test_the_server_answers_after_clients_disconnected_in_mid_stream(client: httpx.Client) -> None:
    for _ in range(8):
        with client.stream("POST", "/invocations", json={"query": PORTUGUESE, "stream": True}) as response:
            next(response.iter_bytes())
    assert "Brasília" in ask(client, {"query": PORTUGUESE})["text"]
