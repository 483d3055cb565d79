"""The seams over HTTP: the same records come out, refusals pass unchanged, and faults are told apart."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.admission.admitted_generator import AdmittedGenerator
from rag.errors import (
    DoesNotFit,
    Failed,
    InvalidRequest,
    NotReady,
    Overloaded,
    PromptTooLong,
    RagError,
    SessionClosed,
    Unreachable,
    rebuilt,
    status_of,
)
from rag.interfaces import Delta, DeltaStream, Message, Sampling, TokenDetail
from rag.remote import payloads
from rag.remote.circuit_breaker import Circuit
from rag.remote.clients import RemoteEmbedder, RemoteGenerator, RemoteRetriever
from rag.remote.http_client import Exchange, Service
from rag.remote.remote_admission import RemoteAdmission
from tests.fakes import BROKEN, FakeEmbedder, FakeGenerator, FakeRetriever, fake_admission
from tests.services import fake_generator, llm_app, serving, speaking, vector_app

GREEDY = Sampling(max_new_tokens=8, deadline_s=5)
REFUSAL = {
    "message": "too large", "requested": {"context_tokens": 9}, "need_bytes": {"kv": 7}, "have_bytes": 5,
    "short_by_bytes": 2, "largest_that_fits": {"context_at_concurrency": 4},
    "fixes": [{"flags": "--context 4", "effect": "fits"}],
}  # fmt: skip


_OPENED: list[Service] = []


@pytest.fixture(autouse=True)
def close_connections() -> Iterator[None]:
    yield
    while _OPENED:
        _OPENED.pop().close()


def to(url: str, **more: Any) -> Service:
    service = Service("llm", url, **{"timeout_s": 2, **more})
    _OPENED.append(service)
    return service


def generator_at(*urls: str, **more: Any) -> RemoteGenerator:
    return RemoteGenerator([to(url, **more) for url in urls], assumed_model_len=256)


@pytest.fixture
def fake() -> FakeGenerator:
    return fake_generator()


@pytest.fixture
def remote(fake: FakeGenerator) -> Iterator[RemoteGenerator]:
    with serving(llm_app(fake)) as url:
        yield generator_at(url)


def text_of(deltas: DeltaStream) -> str:
    """All of it, so that nothing is left open."""
    return "".join(delta.text for delta in deltas)


def _ignored(_: object) -> None:
    """What a script returns."""


def until(condition: Any, limit_s: float = 5) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_passages_and_vectors_cross_a_hop_unchanged() -> None:
    with serving(vector_app()) as url:
        service = to(url)
        embedder = RemoteEmbedder(service)
        assert (embedder.name, embedder.dimension) == ("fake-embedder", 8)
        texts = ["Olá", "mundo"]
        assert np.array_equal(embedder.embed_queries(texts), FakeEmbedder().embed_queries(texts))
        asked: dict[str, Any] = {"top_k": 3, "filters": {"language": "pt"}, "min_score": 0.1}
        found = RemoteRetriever(service).retrieve("q", **asked)
        assert found == FakeRetriever().retrieve("q", **asked)
        embedder.close()


def test_deltas_cross_a_hop_unchanged(remote: RemoteGenerator, fake: FakeGenerator) -> None:
    ids = remote.encode([Message("user", "Qual a capital?")])
    assert ids == fake.encode([Message("user", "Qual a capital?")])
    sampling = Sampling(4, stop=("x",), stop_ids=(3,), seed=7, logprobs=1, deadline_s=5)
    there = list(remote.generate(ids, sampling))
    assert there == list(fake.generate(ids, sampling))
    asked = fake.asked[0][1]
    assert asked.deadline_s == pytest.approx(5, abs=0.5), "the deadline runs from the arrival"
    assert replace(asked, deadline_s=5) == sampling
    assert (remote.name, remote.max_model_len) == (fake.name, fake.max_model_len)


@settings(max_examples=40)
@given(st.text(), st.floats(), st.lists(st.tuples(st.text(), st.floats(allow_nan=False)), max_size=3))
def test_any_delta_reads_back_equal(text: str, logprob: float, top: list[tuple[str, float]]) -> None:
    written = payloads.write_delta(Delta(text, 1, "stop", TokenDetail(5, text, logprob, tuple(top))))
    assert written.count(b"\n") == 1
    read = payloads.read_delta(written)
    assert read is not None
    assert read.token is not None
    assert read.text == text
    assert read.token.logprob == logprob or (math.isnan(logprob) and math.isnan(read.token.logprob))
    assert read.token.top == tuple(top)


@pytest.mark.parametrize(
    "error",
    [
        Overloaded("busy", field="queue", value=64, limit=64, remedy="wait", retry_after_s=2.5, figures={"have": 1}),
        PromptTooLong("too long", field="query", value="9 tokens", limit="8 tokens"),
        NotReady("loading: loading the LLM", field="phase", value="loading the LLM", retry_after_s=1.0),
        Failed("the engine has died", field="phase", value="dead"),
        InvalidRequest("x" * 900, field="f" * 200, value="v" * 500),
        DoesNotFit(REFUSAL),
        BROKEN,
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_raised_again_with_the_same_status_body_and_retry_after(error: RagError) -> None:
    again = rebuilt(error.body())
    assert type(again) is type(error)
    assert again.body() == error.body()
    assert (status_of(again), again.retry_after_s) == (status_of(error), error.retry_after_s)


def test_the_llm_service_keeps_the_ledger_and_its_refusal_arrives_with_every_figure(fake: FakeGenerator) -> None:
    admission = fake_admission(sessions=1, max_waiting=0)
    fake.gate.clear()
    with serving(llm_app(fake, admission=admission)) as url:
        remote = generator_at(url)
        first = remote.generate([1], GREEDY)
        assert (remote.usage(), remote.usage().reserved_blocks) == (admission.usage(), 1)
        refusal = admission.busy().body()
        with pytest.raises(Overloaded) as raised:
            remote.generate([1], GREEDY)
        for told in (raised.value, remote.busy()):
            body: Any = told.body()["error"]
            assert body.keys() == refusal["error"].keys()  # type: ignore[attr-defined]
            assert body["need_bytes"] == {"kv": 1000}
            assert told.retry_after_s == 1.0
        first.close()
        until(lambda: admission.usage().reserved_blocks == 0)


def test_a_prompt_that_is_too_long_is_refused_in_the_llm_service_s_words(fake: FakeGenerator) -> None:
    admission = fake_admission()
    with serving(llm_app(fake, admission=admission)) as url:
        remote = generator_at(url)
        there = admission.too_long(300, 8, allow_long=False)
        with pytest.raises(PromptTooLong) as raised:
            remote.generate([1] * 300, GREEDY)
        here = RemoteAdmission(remote).too_long(300, 8, allow_long=False)
        assert raised.value.body() == there.body() == here.body()


def test_a_session_keeps_memory_in_the_service_and_says_when_it_is_gone(fake: FakeGenerator) -> None:
    admission = fake_admission(sessions=1)
    with serving(llm_app(fake, admission=admission)) as url:
        remote = generator_at(url)
        remote.open_session("s")
        remote.open_session("s")  # a request that was repeated reserves nothing twice
        assert fake.sessions == {"s"}
        assert admission.usage().sessions == 1
        with pytest.raises(Overloaded):
            remote.open_session("t")
        assert text_of(remote.generate([1], GREEDY, "s")) == "Brasília."
        fake.sessions.clear()
        with pytest.raises(SessionClosed):
            remote.generate([1], GREEDY, "s")
        remote.close_session("s")
        assert admission.usage().sessions == 0
        remote.open_session("t")


def test_a_session_that_nobody_uses_is_closed_by_the_service() -> None:
    now_s = [0.0]
    admission = fake_admission()
    admitted = AdmittedGenerator(FakeGenerator(), admission, idle_s=10, clock=lambda: now_s[0])
    admitted.open_session("old")
    now_s[0] = 9.0
    admitted.open_session("new")
    now_s[0] = 11.0
    admitted.sweep()
    assert admission.usage().sessions == 1
    with pytest.raises(SessionClosed):
        admitted.generate([1], GREEDY, "old")
    assert text_of(admitted.generate([1], GREEDY, "new")) == "Brasília."


def test_an_error_in_mid_stream_arrives_after_what_came_before(remote: RemoteGenerator, fake: FakeGenerator) -> None:
    fake.pieces = ("Bra", BROKEN)
    deltas = remote.generate([1], GREEDY)
    assert next(deltas).text == "Bra"
    with pytest.raises(type(BROKEN)) as raised:
        next(deltas)
    assert raised.value.body() == BROKEN.body()
    until(lambda: fake.open == 0)


def test_closing_a_stream_cancels_it_in_the_service_even_while_no_token_comes(
    remote: RemoteGenerator, fake: FakeGenerator
) -> None:
    fake.gate.clear()
    deltas = remote.generate([1], GREEDY)
    assert fake.open == 1
    deltas.close()
    until(lambda: fake.open == 0, 1)
    deltas.close()
    fake.gate.set()
    assert text_of(remote.generate([1], GREEDY)) == "Brasília."


def test_a_stream_that_is_closed_by_another_thread_ends_as_cancelled(
    remote: RemoteGenerator, fake: FakeGenerator
) -> None:
    fake.gate.clear()
    deltas = remote.generate([1], GREEDY)
    threading.Timer(0.05, deltas.close).start()
    assert [delta.finish_reason for delta in deltas] == ["cancelled"]
    until(lambda: fake.open == 0, 1)


def test_a_connection_serves_one_generation_after_another(fake: FakeGenerator) -> None:
    exchanges: list[Exchange] = []
    with serving(llm_app(fake)) as url:
        service = to(url, on_exchange=exchanges.append)
        remote = RemoteGenerator([service], assumed_model_len=256)
        for _ in range(4):
            list(remote.generate([1], GREEDY))
        assert service.connections_made == 1
    generated = [exchange for exchange in exchanges if exchange.path == "/generate"]
    assert len(generated) == 4
    assert all(exchange.sent_bytes > 100 and exchange.received_bytes > 100 for exchange in generated)


def test_a_service_that_loads_is_refused_with_its_phase() -> None:
    go_on, loading = threading.Event(), threading.Event()

    def load(on_phase: Any) -> Any:
        on_phase("loading the LLM")
        loading.set()
        go_on.wait(5)
        raise AssertionError("nobody waits for it")

    from microservices import llm_service
    from rag.serving.lifecycle import Boot

    boot: Boot[Any] = Boot(load)
    boot.start()
    assert loading.wait(5)
    with serving(llm_service.create_app(boot)) as url, pytest.raises(NotReady) as raised:
        generator_at(url).encode([Message("user", "q")])
    assert raised.value.value == "loading the LLM"
    go_on.set()


def test_a_refused_connection_is_told_as_not_sent_and_opens_the_circuit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    service = to(url, circuit=Circuit(failures=4, cool_off_s=60))
    for _ in range(2):  # each asks twice: nothing was sent
        with pytest.raises(Unreachable) as raised:
            service.read("POST", "/retrieve", b"{}")
        assert raised.value.sent is False
        assert raised.value.value == "llm: unreachable"
    assert service.circuit.open
    began = time.perf_counter()
    with pytest.raises(Unreachable) as raised:
        service.lines("/generate", b"{}", silence_s=1)
    assert raised.value.retry_after_s is not None
    assert raised.value.retry_after_s > 50
    assert time.perf_counter() - began < 0.05, "an open circuit costs no wait"


def test_health_closes_an_open_circuit(fake: FakeGenerator) -> None:
    with serving(llm_app(fake)) as url:
        service = to(url, circuit=Circuit(failures=1, cool_off_s=60))
        service.circuit.failed()
        remote = RemoteGenerator([service], assumed_model_len=9)
        remote.learn()
        assert not service.circuit.open
        assert [delta.text for delta in remote.generate([1], GREEDY)][:1] == ["Brasí"]


def test_a_service_that_is_slow_is_given_up_after_the_time_out() -> None:
    quiet = threading.Event()
    with speaking(lambda _: _ignored(quiet.wait(5))) as url:
        began = time.perf_counter()
        with pytest.raises(Unreachable) as raised:
            to(url, timeout_s=0.1).read("POST", "/retrieve", b"{}")
        quiet.set()
    assert 0.1 <= time.perf_counter() - began < 1.0
    assert raised.value.sent is True


def test_a_read_is_asked_again_when_its_connection_breaks_and_a_generation_is_not() -> None:
    heard: list[int] = []
    with speaking(lambda _: heard.append(1)) as url:
        with pytest.raises(Unreachable):
            to(url).read("POST", "/retrieve", b"{}")
        assert len(heard) == 2
        with pytest.raises(Unreachable) as raised:
            to(url).lines("/generate", b"{}", silence_s=1)
        assert raised.value.sent is True
        assert len(heard) == 3


def test_a_service_killed_in_mid_stream_breaks_the_answer_off_as_retryable() -> None:
    def die(connection: socket.socket) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/jsonlines\r\n\r\n"
        for line in (b"{}\n", payloads.write_delta(Delta("Bra", 1))):
            head += f"{len(line):x}\r\n".encode() + line + b"\r\n"
        connection.sendall(head)

    with speaking(die) as url:
        remote = generator_at(url)
        remote._facts = payloads.LlmFacts("fake-llm", 256, "t")
        deltas = remote.generate([1], GREEDY)
        assert next(deltas).text == "Bra"
        with pytest.raises(Unreachable) as raised:
            next(deltas)
    assert raised.value.body()["error"]["retryable"] is True  # type: ignore[index]
    with pytest.raises(StopIteration):
        next(deltas)


def test_a_prompt_encoded_for_another_model_is_not_generated_from(remote: RemoteGenerator, fake: FakeGenerator) -> None:
    remote.learn()
    remote._facts = payloads.LlmFacts("fake-llm", 256, "another")
    with pytest.raises(NotReady) as raised:
        remote.generate([1], GREEDY)
    assert raised.value.field == "tokenizer"
    assert not fake.asked
    assert text_of(remote.generate([1], GREEDY)) == "Brasília."


def test_a_generation_goes_where_the_fewest_are_open_and_passes_over_what_is_down() -> None:
    first, second = fake_generator("um"), fake_generator("dois")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        down = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with serving(llm_app(first)) as one, serving(llm_app(second)) as two:
        remote = generator_at(down, one, two)
        for gate in (first.gate, second.gate):
            gate.clear()
        open_ones = [remote.generate([1], GREEDY) for _ in range(4)]
        assert (first.open, second.open) == (2, 2)
        for gate in (first.gate, second.gate):
            gate.set()
        assert sorted(map(text_of, open_ones)) == ["dois", "dois", "um", "um"]


def test_the_published_tokenizer_encodes_here_as_the_model_does_there() -> None:
    from transformers import AutoTokenizer

    from rag.engine.chat_tokenizer import ChatTokenizer
    from rag.engine.generator import TextGenerator

    directory = Path(__file__).parents[3] / "models" / "rag-tiny"
    tokenizer = AutoTokenizer.from_pretrained(directory)
    engine: Any = None
    conversation = [Message("system", "Responda."), Message("user", " São  Paulo\n"), Message("assistant", "Não.")]
    for template in (
        tokenizer.chat_template,
        None,
        "{% for m in messages %}\n  {%- if loop.index > 2 %}{% break %}{% endif %}\n{{ m | tojson }}{% endfor %}",
    ):
        tokenizer.chat_template = template
        there = TextGenerator("rag-tiny", tokenizer, engine)
        published = there.published_tokenizer()
        assert published is not None
        here = ChatTokenizer.read(payloads.read(payloads.TOKENIZER, payloads.write(payloads.TOKENIZER, published)))
        for messages in (conversation, conversation[1:2]):
            assert here.encode(messages) == there.encode(messages) == there._encode_by_transformers(messages)


def test_a_template_that_means_something_else_here_is_left_to_the_service(fake: FakeGenerator) -> None:
    from rag.engine.chat_tokenizer import PublishedTokenizer

    tokenizer = (Path(__file__).parents[3] / "models" / "rag-tiny" / "tokenizer.json").read_text(encoding="utf-8")
    exchanges: list[Exchange] = []
    with serving(llm_app(fake, PublishedTokenizer(tokenizer, "{{ messages }}", {}))) as url:
        remote = generator_at(url, on_exchange=exchanges.append)
        assert remote.encode([Message("user", "um dois")]) == [1, 1]
    assert exchanges[-1].path == "/encode"


def test_a_body_that_is_no_call_is_refused_by_its_field() -> None:
    app = llm_app(FakeGenerator()).test_client()
    response = app.post("/generate", data=b'{"prompt_ids": ["x"], "sampling": {}, "tokenizer": ""}')
    assert response.status_code == 400
    assert response.get_json()["error"]["field"] == "prompt_ids.0"
    assert app.get("/nowhere").status_code == 404
