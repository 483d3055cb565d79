"""The lifecycle once ready: a dead engine is restarted, draining shows on /ping."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

import pytest

from rag.answering.pipeline import Pipeline
from rag.errors import Draining, Failed, NotReady
from rag.serving import lifecycle
from rag.serving.lifecycle import Boot
from tests.fakes import FakeGenerator, fake_pipeline
from tests.waiting import until


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


def test_a_dead_engine_fails_ping_and_is_restarted(boot: Boot[Pipeline], generator: FakeGenerator) -> None:
    assert boot.unready() is None
    generator.alive = False
    assert isinstance(boot.unready(), NotReady)
    until(lambda: boot.unready() is None)
    assert generator.revivals == 1
    assert [message.content for message in generator.asked[-1][0]][-1].endswith("Qual a capital do Brasil?")


def die_and_revive(boot: Boot[Pipeline], generator: FakeGenerator, revivals: int) -> None:
    generator.alive = False
    until(lambda: generator.revivals == revivals and boot.unready() is None)


def test_faults_that_are_apart_in_time_are_each_survived(
    boot: Boot[Pipeline], generator: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "_AT_ONCE_S", 0.0)
    for fault in range(1, 5):
        die_and_revive(boot, generator, fault)


def test_an_engine_that_dies_at_once_after_each_restart_is_given_up(
    boot: Boot[Pipeline], generator: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "_FIRST_BACKOFF_S", 0.01)
    given_up = threading.Event()
    boot.on_dead = given_up.set
    for restarts in range(1, 4):
        die_and_revive(boot, generator, restarts)
    generator.alive = False
    assert given_up.wait(5)
    assert isinstance(boot.unready(), Failed)
    assert generator.revivals == 3


def test_sessions_are_lost_with_the_engine_and_their_memory_is_freed(
    boot: Boot[Pipeline], pipeline: Pipeline, generator: FakeGenerator
) -> None:
    pipeline.sessions.open()
    generator.alive = False
    until(lambda: generator.revivals == 1 and boot.unready() is None)
    assert pipeline.admission.usage().reserved_blocks == 0


def test_ping_fails_while_the_container_shuts_down(boot: Boot[Pipeline]) -> None:
    boot.drain(0.01)
    assert isinstance(boot.unready(), Draining)
    with pytest.raises(Draining):
        boot.loaded()
    boot.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a priority is the whole process's")
def test_threads_that_loading_starts_have_a_lower_priority(pipeline: Pipeline) -> None:
    found: list[int] = []

    def record() -> None:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def load(_on_phase: Callable[[str], None]) -> Pipeline:
        computes = threading.Thread(target=record)
        computes.start()
        computes.join()
        return pipeline

    boot = Boot(load)
    boot.start()
    boot.join()
    record()
    assert found[0] > found[1]
