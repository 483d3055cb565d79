"""The watch over a running container: a dead engine is started over once, draining is said on /ping."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

import pytest

from rag.answering.pipeline import Pipeline
from rag.errors import Draining, Failed, NotReady
from rag.serving.lifecycle import Boot
from tests.fakes import FakeGenerator, fake_pipeline


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.005)


@pytest.fixture
def generator() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
def pipeline(generator: FakeGenerator) -> Pipeline:
    return fake_pipeline(generator)


@pytest.fixture
def boot(pipeline: Pipeline) -> Boot[Pipeline]:
    boot = Boot(lambda _: pipeline)
    boot.start()
    boot.join()
    return boot


def test_a_dead_engine_fails_ping_and_is_started_over_once(boot: Boot[Pipeline], generator: FakeGenerator) -> None:
    assert boot.unready() is None
    generator.alive = False
    assert isinstance(boot.unready(), NotReady)
    until(lambda: boot.unready() is None)
    assert generator.revivals == 1
    assert [message.content for message in generator.asked[-1][0]][-1].endswith("Qual a capital do Brasil?")
    generator.alive = False
    until(lambda: isinstance(boot.unready(), Failed))
    assert generator.revivals == 1


def test_sessions_are_lost_with_the_engine_and_their_memory_is_free(
    boot: Boot[Pipeline], pipeline: Pipeline, generator: FakeGenerator
) -> None:
    pipeline.sessions.open()
    generator.alive = False
    until(lambda: generator.revivals == 1 and boot.unready() is None)
    assert pipeline.admission.usage().reserved_blocks == 0


def test_ping_says_that_the_container_is_stopping(boot: Boot[Pipeline]) -> None:
    boot.drain(0.01)
    assert isinstance(boot.unready(), Draining)
    with pytest.raises(Draining):
        boot.loaded()
    boot.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere priorities are of whole processes")
def test_threads_that_loading_starts_let_those_go_first_that_answer(pipeline: Pipeline) -> None:
    found: list[int] = []

    def note() -> None:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def load(_on_phase: Callable[[str], None]) -> Pipeline:
        computes = threading.Thread(target=note)
        computes.start()
        computes.join()
        return pipeline

    boot = Boot(load)
    boot.start()
    boot.join()
    note()
    assert found[0] > found[1]
