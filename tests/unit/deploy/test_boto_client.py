"""The client against the stand-in: answers, streams, sessions, and and every failure as a typed error."""

from __future__ import annotations

import json
import random
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from deploy.local.runtime import LocalRuntime
from rag_client.client import CONFIG, Client
from rag_client.failures import (
    CallFailed,
    DoesNotFit,
    InvalidRequest,
    NoSuchEndpoint,
    NotReady,
    Overloaded,
    ServerFailed,
    SessionClosed,
    StreamBroken,
    TookTooLong,
    Unreachable,
    from_refusal,
)
from tests.unit.deploy.fake_container import FakeContainer

FIXES = [{"flags": "--context 2048", "effect": "16 sessions"}, {"flags": "--kv-dtype fp8", "effect": "half the KV"}]
REFUSAL = {"code": "does_not_fit", "message": "short by 1 GiB", "retryable": False, "fixes": FIXES}


def test_ask_gives_the_container_s_answer(client: Client, container: FakeContainer) -> None:
    assert client.ask("Qual a capital?", top_k=2)["text"] == "Brasília: Qual a capital?"
    assert container.requests == [{"query": "Qual a capital?", "top_k": 2}]


def test_the_other_shapes_pass_through(client: Client, container: FakeContainer) -> None:
    client.ask(inputs="q", parameters={"max_new_tokens": 3})
    assert container.requests == [{"inputs": "q", "parameters": {"max_new_tokens": 3}}]


def test_a_stream_gives_whole_events_however_it_is_cut(
    client: Client, container: FakeContainer, runtime: LocalRuntime
) -> None:
    for seed in range(20):
        runtime.chance = random.Random(seed)
        assert list(client.stream("é ou não é?")) == container.events("é ou não é?")


def test_boto3_waits_longer_than_the_platform_and_never_repeats() -> None:
    assert CONFIG.read_timeout == 70
    assert CONFIG.retries["total_max_attempts"] == 1


@pytest.mark.parametrize("call", [Client.ask, lambda client, **fields: list(client.stream(**fields))])
@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (422, REFUSAL, DoesNotFit),
        (400, {"code": "invalid_request", "message": "no", "field": "query", "remedy": "say more"}, InvalidRequest),
        (404, {"code": "session_closed", "message": "over"}, SessionClosed),
        (429, {"code": "too_many", "message": "slow down"}, Overloaded),
        (503, {"code": "draining", "message": "stopping"}, NotReady),
        (500, {"code": "generation_failed", "message": "broke"}, ServerFailed),
        (503, {"code": "failed", "message": "the engine died"}, ServerFailed),
    ],
)
def test_a_refusal_is_a_typed_error_with_all_its_members(
    client: Client, call: Any, status: int, error: dict[str, Any], kind: type[CallFailed]
) -> None:
    with pytest.raises(kind) as raised:
        call(client, refuse=status, error=error)
    failure = raised.value
    assert type(failure) is kind
    assert (failure.status, failure.code, failure.retryable) == (status, error["code"], False)
    assert failure.document == error
    assert error["message"] in str(failure)
    assert failure.log_stream is not None


def test_the_fixes_of_a_refusal_come_through(client: Client) -> None:
    with pytest.raises(DoesNotFit) as raised:
        client.ask(refuse=422, error=REFUSAL)
    assert list(raised.value.fixes) == FIXES
    assert str(raised.value) == (
        "short by 1 GiB. any one of these helps: --context 2048 (16 sessions); --kv-dtype fp8 (half the KV)"
    )


def test_a_refusal_that_is_truncated_or_foreign_is_still_one_clear_line() -> None:
    assert str(from_refusal(400, '{"error": {"message": "abc')) == '{"error": {"message": "abc'
    assert str(from_refusal(502, "")) == "the container answered 502 and no text"
    assert len(str(from_refusal(500, "<html>\n" * 900))) <= 300


def test_what_the_server_calls_retryable_is_asked_again_and_nothing_else(
    client: Client, container: FakeContainer
) -> None:
    container.busy = 2
    assert client.ask("q")["text"] == "Brasília: q"
    assert len(container.requests) == 3
    container.busy = 1
    assert list(client.stream("q")) == container.events("q")
    del container.requests[:]
    with pytest.raises(ServerFailed):
        client.ask("q", refuse=500, error={"code": "internal", "message": "no", "retryable": False})
    assert len(container.requests) == 1


def test_patience_ends(runtime: LocalRuntime, container: FakeContainer) -> None:
    container.busy = 1000
    with pytest.raises(Overloaded) as raised:
        Client("rag", endpoint_url=runtime.url, patience_s=0.3).ask("q")
    assert raised.value.retry_after_s == 0.05
    assert 2 <= len(container.requests) <= 8


def test_a_slow_answer_is_neither_repeated_nor_vague(client: Client, container: FakeContainer) -> None:
    with pytest.raises(TookTooLong, match="timed out"):
        client.ask("q", sleep_s=1.0)
    assert len(container.requests) == 1


def test_an_endpoint_that_is_not_there_and_one_that_cannot_be_reached(runtime: LocalRuntime) -> None:
    with pytest.raises(NoSuchEndpoint, match="other: Endpoint other"):
        Client("other", endpoint_url=runtime.url).ask("q")
    with pytest.raises(Unreachable, match="rag: Could not connect"):
        Client("rag", endpoint_url="http://127.0.0.1:1").ask("q")


def test_what_boto3_itself_refuses_is_an_invalid_request(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="SessionId"):
        client.invoke({"query": "q"}, SessionId=7)


def test_without_credentials_the_line_says_so(runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(Unreachable, match="Unable to locate credentials"):
        Client("rag", endpoint_url=runtime.url).ask("q")


@pytest.mark.parametrize(
    "fields",
    [
        {"pieces": ['{"type": "text", "text": "a"}\n'], "break": True},
        {"pieces": ['{"type": "text", "text": "a"}\n']},
        {
            "pieces": [
                '{"type": "text", "text": "a"}\n',
                '{"type": "error", "error": {"message": "the engine broke"}}\n',
            ]
        },
        {"pieces": ['{"type": "text", "text": "a"}\n', "no json\n"]},
        {"pieces": ['{"type": "text", "text": "a"}\n'] * 30, "pause_s": 0.1},
    ],
    ids=["hung up", "no last event", "error event", "not JSON", "too long"],
)
def test_a_stream_that_breaks_says_so_after_what_came(client: Client, fields: dict[str, Any]) -> None:
    with pytest.raises(StreamBroken):
        list(client.stream(**fields))
    stream = client.stream(**fields)
    assert next(stream) == {"type": "text", "text": "a"}
    stream.close()


def test_closing_a_stream_lets_the_container_know(client: Client, container: FakeContainer) -> None:
    line = '{"type": "text", "text": "' + "x" * 200_000 + '"}\n'
    stream = client.stream(pieces=[line] * 50, pause_s=0.01)
    next(stream)
    stream.close()
    assert container.client_left.wait(5)


def test_a_session_keeps_the_conversation_and_closes_itself(client: Client, container: FakeContainer) -> None:
    with client.session() as session:
        assert session.ask("um")["text"] == "um"
        assert (session.id, session.expires) == ("s1", datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC))
        assert session.ask("dois")["text"] == "um / dois"
        assert [event["type"] for event in session.stream("três")][-1] == "end"
        assert container.sessions == {"s1": ["um", "dois", "três"]}
    assert container.sessions == {}
    assert session.id is None


def test_a_session_that_begins_with_a_stream_is_opened_by_a_plain_call(
    client: Client, container: FakeContainer
) -> None:
    with client.session() as session:
        assert [event["type"] for event in session.stream("um")] == ["sources", "text", "end"]
        assert container.sessions == {"s1": ["um"]}


def test_a_session_that_expired_says_so_and_closing_it_is_no_error(client: Client, container: FakeContainer) -> None:
    with client.session() as session:
        session.ask("um")
        container.sessions.clear()
        with pytest.raises(SessionClosed):
            session.ask("dois")


def test_a_session_that_was_never_used_asks_nothing(client: Client, container: FakeContainer) -> None:
    with client.session():
        pass
    assert container.requests == []


def test_a_container_without_sessions_is_named(client: Client) -> None:
    with pytest.raises(CallFailed, match="opened no session"), client.session() as session:
        client_invoke = session._client.invoke
        session._client.invoke = lambda body, **_: client_invoke(body)  # type: ignore[method-assign]
        session.ask("um")


def test_threads_share_a_client(client: Client) -> None:
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(client.ask("q")["text"])) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["Brasília: q"] * 16


def test_each_form_of_a_fix_is_put_in_words() -> None:
    fixes = [{"set": {"max_new_tokens": 8}}, {"deploy": {"CONTEXT": 4096}, "effect": "a context that holds it"}]
    refusal = json.dumps({"error": {"code": "prompt_too_long", "message": "too long", "fixes": fixes}})
    assert str(from_refusal(422, refusal)).endswith(
        "max_new_tokens=8; deploy with CONTEXT=4096 (a context that holds it)"
    )
