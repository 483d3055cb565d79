"""Stateful sessions over fakes: opening, turns, one request at a time, closing, expiry."""

from __future__ import annotations

import threading
import time
from typing import Any
from unittest.mock import MagicMock

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from inference import create_app
from rag.answering.ask import Ask
from rag.answering.pipeline import Pipeline
from rag.answering.sessions import Conversation, Turn
from rag.errors import Overloaded, PromptTooLong, SessionClosed
from rag.interfaces import Message, Sampling
from rag.serving.lifecycle import Boot
from rag.settings import Settings
from tests.fakes import FakeGenerator, fake_admission, fake_pipeline

ID = "X-Amzn-SageMaker-Session-Id"
NEW = "X-Amzn-SageMaker-New-Session-Id"
CLOSED = "X-Amzn-SageMaker-Closed-Session-Id"


class Clock:
    """A fake wall clock."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def generator() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
def pipeline(generator: FakeGenerator, clock: Clock) -> Pipeline:
    return fake_pipeline(generator, fake_admission(3, max_waiting=0), clock=clock)


@pytest.fixture
def client(pipeline: Pipeline) -> FlaskClient:
    boot = Boot(lambda _: pipeline)
    boot.start()
    boot.join()
    return create_app(Settings(), boot).test_client()


def ask(client: FlaskClient, session: str | None, document: Any) -> TestResponse:
    return client.post("/invocations", json=document, headers={ID: session} if session else {}, buffered=True)


def opened(client: FlaskClient) -> str:
    response = ask(client, "NEW_SESSION", {"query": "Qual a capital do Brasil?"})
    assert response.status_code == 200
    return response.headers[NEW].split(";")[0]


def test_a_new_session_answers_with_its_id_and_expiry(client: FlaskClient) -> None:
    response = ask(client, "NEW_SESSION", {"query": "Qual a capital do Brasil?"})
    assert response.get_json()["text"] == "Brasília."
    session, expires = response.headers[NEW].split("; ")
    assert session.isalnum()
    assert expires == "Expires=1970-01-12T14:46:40Z"  # an hour after the clock's start


def test_the_next_prompt_repeats_the_conversation_word_for_word(client: FlaskClient, generator: FakeGenerator) -> None:
    session = opened(client)
    first, _ = generator.asked[-1]
    assert ask(client, session, {"query": "E a antiga?"}).status_code == 200
    second, _ = generator.asked[-1]
    assert second[: len(first)] == first
    assert second[len(first)] == Message("assistant", "Brasília.")
    assert second[-1].content.endswith("E a antiga?")


def test_a_conversation_too_long_for_the_context_loses_passages_first_and_then_its_oldest_turns(
    client: FlaskClient, generator: FakeGenerator
) -> None:
    session = opened(client)
    for number in range(80):
        response = ask(client, session, {"query": f"Pergunta {number}?", "max_new_tokens": 64})
        assert response.status_code == 200
    messages, _ = generator.asked[-1]
    assert sum(len(message.content.split()) for message in messages) + 64 <= generator.max_model_len
    questions = [message.content for message in messages if message.role == "user"]
    assert "Pergunta 78?" in questions  # the latest turn is included, without its passages
    assert "Qual a capital do Brasil?" not in questions


def test_as_many_sessions_can_be_open_as_the_plan_has(client: FlaskClient, pipeline: Pipeline) -> None:
    sessions = [opened(client) for _ in range(3)]
    refused = ask(client, "NEW_SESSION", {"query": "q"})
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert ask(client, None, {"query": "q"}).status_code == 429  # the sessions have reserved all memory
    assert all(ask(client, session, {"query": "q"}).status_code == 200 for session in sessions)
    ask(client, sessions[0], {"close_session": True})
    assert opened(client)
    assert pipeline.admission.usage().sessions == 3


def test_a_closed_session_frees_its_memory_and_is_unknown_afterwards(
    client: FlaskClient, generator: FakeGenerator, pipeline: Pipeline
) -> None:
    session = opened(client)
    closed = ask(client, session, {"close_session": True})
    assert (closed.status_code, closed.headers[CLOSED]) == (200, session)
    assert pipeline.admission.usage().reserved_blocks == 0
    assert not generator.sessions
    gone = ask(client, session, {"query": "q"})
    assert (gone.status_code, gone.headers[CLOSED]) == (404, session)
    assert gone.get_json()["error"]["code"] == "session_closed"


@pytest.mark.parametrize("idle_s", [600, 3600])
def test_a_session_expires(client: FlaskClient, pipeline: Pipeline, clock: Clock, idle_s: float) -> None:
    session = opened(client)
    clock.now += idle_s
    assert ask(client, session, {"query": "q"}).status_code == 404
    assert pipeline.admission.usage().reserved_blocks == 0


def test_expired_sessions_free_memory_for_new_ones(client: FlaskClient, clock: Clock) -> None:
    for _ in range(3):
        opened(client)
    clock.now += 600
    assert opened(client)


def test_a_session_with_a_running_request_neither_expires_nor_accepts_another(
    client: FlaskClient, pipeline: Pipeline, generator: FakeGenerator, clock: Clock
) -> None:
    session = opened(client)
    generator.gate.clear()
    done: list[TestResponse] = []
    running = threading.Thread(target=lambda: done.append(ask(client, session, {"query": "q"})))
    running.start()
    while generator.open == 0:
        time.sleep(0.001)
    clock.now += 10_000
    pipeline.sessions.sweep()
    with pytest.raises(Overloaded):
        pipeline.sessions.begin(session)
    generator.gate.set()
    running.join(10)
    assert done[0].status_code == 200
    pipeline.sessions.sweep()
    with pytest.raises(SessionClosed):
        pipeline.sessions.begin(session)


def test_a_refused_request_leaves_the_session_open_and_the_conversation_unchanged(
    client: FlaskClient, generator: FakeGenerator
) -> None:
    session = opened(client)
    assert ask(client, session, {"query": "q", "max_new_tokens": 5000}).status_code == 422
    assert ask(client, session, {"query": "w " * 400}).status_code == 422
    assert ask(client, session, {"query": "E agora?"}).status_code == 200
    assert [message.role for message in generator.asked[-1][0]] == ["system", "user", "assistant", "user"]


def test_a_session_whose_first_request_is_refused_is_closed(client: FlaskClient, pipeline: Pipeline) -> None:
    refused = ask(client, "NEW_SESSION", {"query": "w " * 400})
    assert refused.status_code == 422
    assert NEW not in refused.headers
    assert len(pipeline.sessions) == 0
    assert pipeline.admission.usage().reserved_blocks == 0


def test_a_batch_can_not_be_part_of_a_session(client: FlaskClient) -> None:
    refused = client.post(
        "/invocations",
        data=b'{"query": "q"}\n',
        content_type="application/jsonlines",
        headers={ID: "NEW_SESSION"},
    )
    assert (refused.status_code, refused.get_json()["error"]["field"]) == (400, ID)


def test_a_cancelled_turn_is_not_part_of_the_conversation(pipeline: Pipeline, generator: FakeGenerator) -> None:
    session = pipeline.sessions.open()
    run = pipeline.start(Ask(("q",), Sampling(max_new_tokens=8)), None, pipeline.sessions.begin(session.id))
    run.close()
    assert not session.turns
    assert not session.active
    assert generator.open == 0


@pytest.mark.parametrize("turns", [1, 100_000])
def test_a_history_far_beyond_the_context_is_refused_before_any_tokenizing_or_reservation(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    encoded: list[object] = []
    monkeypatch.setattr(pipeline.generator, "encode", encoded.append)
    history = tuple(Message("user", "x" * (5_800_000 // turns)) for _ in range(turns))
    with pytest.raises(PromptTooLong) as refused:
        pipeline.answer(Ask(("q",), Sampling(max_new_tokens=4), history=history))
    assert refused.value.field == "messages"
    assert not encoded
    assert pipeline.admission.usage().reserved_blocks == 0


def test_a_session_forgets_turns_that_could_never_be_in_a_prompt_again() -> None:
    session = Conversation("id", permit=MagicMock(), expires=0.0, last_used=0.0)
    for number in range(50):
        session.remember(Turn(f"{number:04}", Message("user", "q"), "a" * 96), 1000)
    assert [turn.question for turn in session.turns] == [f"{number:04}" for number in range(40, 50)]


def test_a_session_whose_client_disconnects_during_its_first_turn_is_closed(
    client: FlaskClient, pipeline: Pipeline
) -> None:
    for _ in range(5):  # there is memory for three
        response = client.post(
            "/invocations",
            json={"query": "Qual a capital do Brasil?", "stream": True},
            headers={ID: "NEW_SESSION"},
            buffered=False,
        )
        assert response.status_code == 200
        response.close()
        assert len(pipeline.sessions) == 0
        assert pipeline.admission.usage().reserved_blocks == 0


def test_a_session_whose_first_turn_is_read_to_its_end_stays_open(client: FlaskClient, pipeline: Pipeline) -> None:
    response = client.post(
        "/invocations",
        json={"query": "Qual a capital do Brasil?", "stream": True},
        headers={ID: "NEW_SESSION"},
        buffered=False,
    )
    assert b"Bras" in b"".join(response.iter_encoded())
    response.close()
    assert len(pipeline.sessions) == 1
