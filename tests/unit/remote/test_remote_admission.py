"""Admission by the LLM service: its refusals arrive unchanged, sessions reserve its memory."""

from __future__ import annotations

from typing import Any

import pytest

from rag.errors import (
    Overloaded,
    PromptTooLong,
    SessionClosed,
)
from rag.remote.remote_admission import RemoteAdmission
from tests.fakes import FakeGenerator, fake_admission
from tests.services import llm_app, serving
from tests.unit.remote.clients import GREEDY, remote_generator, text_of
from tests.waiting import until


def test_the_llm_service_s_refusal_arrives_with_every_figure(fake: FakeGenerator) -> None:
    admission = fake_admission(sessions=1, max_waiting=0)
    fake.gate.clear()
    with serving(llm_app(fake, admission=admission)) as url:
        remote = remote_generator(url)
        first = remote.generate([1], GREEDY)
        assert (remote.usage(), remote.usage().reserved_blocks) == (admission.usage(), 1)
        refusal = admission.busy().body()
        with pytest.raises(Overloaded) as raised:
            remote.generate([1], GREEDY)
        for overloaded in (raised.value, remote.busy()):
            body: Any = overloaded.body()["error"]
            assert body.keys() == refusal["error"].keys()  # type: ignore[attr-defined]
            assert body["need_bytes"] == {"kv": 1000}
            assert overloaded.retry_after_s == 1.0
        first.close()
        until(lambda: admission.usage().reserved_blocks == 0)


def test_a_prompt_that_is_too_long_gets_the_llm_service_s_refusal(fake: FakeGenerator) -> None:
    admission = fake_admission()
    with serving(llm_app(fake, admission=admission)) as url:
        remote = remote_generator(url)
        there = admission.too_long(300, 8, allow_long=False)
        with pytest.raises(PromptTooLong) as raised:
            remote.generate([1] * 300, GREEDY)
        here = RemoteAdmission(remote).too_long(300, 8, allow_long=False)
        assert raised.value.body() == there.body() == here.body()


def test_a_session_reserves_memory_in_the_service_and_raises_session_closed_when_it_is_lost(
    fake: FakeGenerator,
) -> None:
    admission = fake_admission(sessions=1)
    with serving(llm_app(fake, admission=admission)) as url:
        remote = remote_generator(url)
        remote.open_session("s")
        remote.open_session("s")  # a repeated request reserves nothing more
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
