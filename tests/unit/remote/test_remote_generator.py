"""The generator over HTTP: the same deltas as in one process, cancellation, faults, several services."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from typing import Any

import pytest

from rag.errors import (
    NotReady,
    Unreachable,
)
from rag.interfaces import Delta, Message, Sampling
from rag.remote import payloads
from rag.remote.remote_generator import RemoteGenerator
from rag.serving.lifecycle import Boot
from tests.fakes import BROKEN, FakeGenerator
from tests.services import fake_generator, llm_app, scripted_server, serving
from tests.unit.remote.clients import GREEDY, remote_generator, text_of
from tests.waiting import until


def test_deltas_arrive_unchanged(remote: RemoteGenerator, fake: FakeGenerator) -> None:
    ids = remote.encode([Message("user", "Qual a capital?")])
    assert ids == fake.encode([Message("user", "Qual a capital?")])
    sampling = Sampling(4, stop=("x",), stop_ids=(3,), seed=7, logprobs=1, deadline_s=5)
    there = list(remote.generate(ids, sampling))
    assert there == list(fake.generate(ids, sampling))
    asked = fake.asked[0][1]
    assert asked.deadline_s == pytest.approx(5, abs=0.5), "the deadline counts from the arrival"
    assert replace(asked, deadline_s=5) == sampling
    assert (remote.name, remote.max_model_len) == (fake.name, fake.max_model_len)


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


def test_a_service_that_is_loading_gives_its_phase() -> None:
    go_on, loading = threading.Event(), threading.Event()

    def load(on_phase: Any) -> Any:
        on_phase("loading the LLM")
        loading.set()
        go_on.wait(5)
        raise AssertionError("loading is never finished here")

    from microservices import llm_service
    from rag.serving.lifecycle import Boot

    boot: Boot[Any] = Boot(load)
    boot.start()
    assert loading.wait(5)
    with serving(llm_service.create_app(boot)) as url, pytest.raises(NotReady) as raised:
        remote_generator(url).encode([Message("user", "q")])
    assert raised.value.value == "loading the LLM"
    go_on.set()


def test_a_service_killed_in_mid_stream_ends_the_answer_with_a_retryable_error() -> None:
    def die(connection: socket.socket) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/jsonlines\r\n\r\n"
        for line in (b"{}\n", payloads.write_delta(Delta("Bra", 1))):
            head += f"{len(line):x}\r\n".encode() + line + b"\r\n"
        connection.sendall(head)

    with scripted_server(die) as url:
        remote = remote_generator(url)
        remote._description = payloads.LlmDescription("fake-llm", 256, "t")
        deltas = remote.generate([1], GREEDY)
        assert next(deltas).text == "Bra"
        with pytest.raises(Unreachable) as raised:
            next(deltas)
    assert raised.value.body()["error"]["retryable"] is True  # type: ignore[index]
    with pytest.raises(StopIteration):
        next(deltas)


def test_a_prompt_encoded_for_another_model_is_refused(remote: RemoteGenerator, fake: FakeGenerator) -> None:
    remote.refresh()
    remote._description = payloads.LlmDescription("fake-llm", 256, "another")
    with pytest.raises(NotReady) as raised:
        remote.generate([1], GREEDY)
    assert raised.value.field == "tokenizer"
    assert not fake.asked
    assert text_of(remote.generate([1], GREEDY)) == "Brasília."


def test_a_generation_goes_to_the_service_with_the_fewest_open_ones_and_skips_one_that_is_down() -> None:
    first, second = fake_generator("um"), fake_generator("dois")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        down = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with serving(llm_app(first)) as one, serving(llm_app(second)) as two:
        remote = remote_generator(down, one, two)
        for gate in (first.gate, second.gate):
            gate.clear()
        open_ones = [remote.generate([1], GREEDY) for _ in range(4)]
        assert (first.open, second.open) == (2, 2)
        for gate in (first.gate, second.gate):
            gate.set()
        assert sorted(map(text_of, open_ones)) == ["dois", "dois", "um", "um"]
