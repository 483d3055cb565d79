"""The permit before the work: who gets one, who waits, and what a refusal says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rag.admission.admission import Admission, Permit
from rag.admission.rates import Rates
from rag.cancellation import Call
from rag.errors import ClientGone, Draining, Overloaded, PromptTooLong, RagError
from tests.fakes import fake_admission

CONTEXT = 256


def admit(admission: Admission, prompt: int = 200, new: int = 56, call: Call | None = None, **how: Any) -> Permit:
    return admission.admit(prompt, new, call or Call(), **{"deadline_s": 50.0, **how})


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.001)


def test_what_is_reserved_is_the_worst_case_and_shrinks_to_the_real_size() -> None:
    admission = fake_admission(2, block_tokens=16)
    permit = admit(admission)
    assert admission.usage().reserved_blocks == 16
    permit.shrink(40)
    assert admission.usage().reserved_blocks == 3
    permit.release()
    permit.release()
    assert admission.usage().reserved_blocks == 0


def test_who_waits_is_served_when_another_leaves() -> None:
    admission = fake_admission(1)
    first = admit(admission)
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(admit, admission)
        until(lambda: admission.usage().waiting == 1)
        first.release()
        permit = second.result(5)
    assert permit.waited_s > 0
    permit.release()
    assert admission.usage().reserved_blocks == 0


def test_a_full_line_refuses_with_figures_and_a_time_to_come_back() -> None:
    admission = fake_admission(1, max_waiting=0)
    held = admit(admission)
    time.sleep(0.05)
    held.release()  # the ledger has seen how long a request holds its memory
    held = admit(admission)
    with pytest.raises(Overloaded) as raised:
        admit(admission)
    body = raised.value.body()["error"]
    assert isinstance(body, dict)
    assert body["retryable"] is True
    assert 0.05 <= body["retry_after_s"] < 1
    assert (body["need_bytes"], body["have_bytes"], body["short_by_bytes"]) == ({"kv": 1000}, 0, 1000)
    assert len(json.dumps(body)) < 2048
    held.release()


def test_where_memory_is_left_but_no_place_the_time_to_come_back_counts_the_places() -> None:
    admission = fake_admission(4, sequences=2, block_tokens=16, max_waiting=0)
    admit(admission).release()
    admission._holds_s[0] = 8.0
    held = [admit(admission, prompt=8, new=8) for _ in range(2)]
    with pytest.raises(Overloaded) as raised:
        admit(admission, prompt=8, new=8)
    assert raised.value.retry_after_s == pytest.approx(4.0)  # one of two places, each held for 8 s
    with pytest.raises(Overloaded) as raised:
        admit(admission, prompt=8, new=8)
    assert raised.value.retry_after_s == pytest.approx(8.0)  # after the one who was refused before
    for permit in held:
        permit.release()


def test_an_idle_hour_does_not_make_the_next_wait_look_long() -> None:
    admission = fake_admission(1, longest_wait_s=0.3)
    admit(admission).release()
    admission._holds_s[0] = 0.01
    time.sleep(0.4)  # longer than anybody may wait
    held = admit(admission)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(admit, admission)
        until(lambda: admission.usage().waiting == 1)
        held.release()
        waiting.result(5).release()


def test_a_wait_longer_than_the_line_allows_is_refused_at_once() -> None:
    admission = fake_admission(1, longest_wait_s=2.0)
    admission._holds_s.append(30.0)
    held = admit(admission)
    began = time.monotonic()
    with pytest.raises(Overloaded) as raised:
        admit(admission)
    assert time.monotonic() - began < 1
    assert raised.value.retry_after_s == 30.0
    held.release()


def test_who_has_waited_long_enough_is_refused() -> None:
    admission = fake_admission(1, longest_wait_s=0.05)
    held = admit(admission)
    with pytest.raises(Overloaded):
        admit(admission)
    assert admission.usage().waiting == 0
    held.release()


def test_a_client_that_hangs_up_in_line_leaves_it() -> None:
    admission, call = fake_admission(1), Call()
    held = admit(admission)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(admit, admission, call=call)
        until(lambda: admission.usage().waiting == 1)
        call.cancel()
        with pytest.raises(ClientGone):
            waiting.result(5)
    assert admission.usage().waiting == 0
    held.release()


@pytest.mark.parametrize(("prompt", "new"), [(200, 100), (10, 300), (256, 1), (5000, 10)])
@pytest.mark.parametrize("governed", [None, 128])
def test_every_fix_of_a_refusal_passes_the_same_check(prompt: int, new: int, governed: int | None) -> None:
    admission = fake_admission(2, governed_tokens=governed)
    with pytest.raises(PromptTooLong) as raised:
        admit(admission, prompt, new)
    error: Any = raised.value.body()["error"]
    assert error["retryable"] is False
    assert error["fixes"]
    for fix in error["fixes"]:
        change = fix.get("set", {})
        if "deploy" in fix:
            assert fix["deploy"]["CONTEXT"] >= prompt + new
            continue
        fixed = {"prompt": prompt, "new": change.get("max_new_tokens", new)}
        admit(admission, **fixed, allow_long=change.get("allow_long_context", False)).release()


def test_a_context_above_the_governed_one_has_to_be_asked_for() -> None:
    admission = fake_admission(4, governed_tokens=128, long_share=0.25)
    with pytest.raises(PromptTooLong) as raised:
        admit(admission)
    assert {"set": {"allow_long_context": True}} in (raised.value.figures or {})["fixes"]
    long = admit(admission, allow_long=True)
    short = admit(admission, 60, 60)
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(admit, admission, allow_long=True)
        until(lambda: admission.usage().waiting == 1)  # the share of the long ones is used up, though memory is free
        long.release()
        second.result(5).release()
    short.release()


def test_work_that_can_not_end_in_time_is_refused_by_measured_rates_with_a_fix_that_works() -> None:
    rates = Rates()
    rates.observe(prefill_tokens=0, decodes=4, seconds=0.5)
    rates.observe(prefill_tokens=100, decodes=0, seconds=1.0)
    admission = fake_admission(2, rates=rates)
    with pytest.raises(PromptTooLong) as raised:
        admit(admission, 100, 150, deadline_s=10.0)
    assert raised.value.retryable is False
    admission.refuse_endless(100, 18, 10.0)  # 1 s of prefill and 9 s of decode
    with pytest.raises(PromptTooLong) as raised:
        admission.refuse_endless(100, 19, 10.0)
    assert (raised.value.figures or {})["fixes"] == [{"set": {"max_new_tokens": 18}}]


def test_one_slow_step_refuses_nobody() -> None:
    rates = Rates()
    rates.observe(prefill_tokens=0, decodes=1, seconds=0.01)
    rates.observe(prefill_tokens=0, decodes=1, seconds=30.0)
    fake_admission(2, rates=rates).refuse_endless(10, 100, 10.0)


def test_draining_turns_away_who_waits_and_who_comes_and_ends_who_runs() -> None:
    admission, call = fake_admission(1), Call()
    ended = threading.Event()
    call.on_end(ended.set)
    held = admit(admission, call=call)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(admit, admission)
        until(lambda: admission.usage().waiting == 1)
        admission.drain(0.05)
        with pytest.raises(Draining):
            waiting.result(5)
    with pytest.raises(Draining):
        admit(admission)
    assert ended.wait(5)
    assert call.expired
    assert not call.cancelled
    held.release()


def test_after_a_shortage_of_memory_one_session_less_is_counted_with_and_never_none() -> None:
    admission = fake_admission(2)
    assert admission.lose_a_session() == 1
    assert admission.lose_a_session() == 1
    assert admission.usage().total_blocks == 1
    admit(admission).release()


def test_above_80_percent_a_warning_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    admission = fake_admission(5)
    permits = [admit(admission) for _ in range(5)]
    events = [json.loads(record.message)["event"] for record in caplog.records]
    assert events == ["kv_above_80_percent"]
    for permit in permits:
        permit.release()
    for permit in [admit(admission) for _ in range(4)]:
        permit.release()
    assert len(caplog.records) == 2


def test_a_crowd_of_threads_leaves_the_ledger_at_zero_and_is_answered_once_each() -> None:
    admission = fake_admission(3, block_tokens=16, max_waiting=6, longest_wait_s=0.5)

    def one(number: int) -> str:
        call = Call()
        if number % 7 == 0:
            threading.Timer(0.002, call.cancel).start()
        try:
            permit = admit(admission, 20 + number % 180, 20, call=call)
        except RagError as error:
            return error.code
        permit.shrink(20 + number % 50)
        time.sleep(0.001)
        permit.release()
        return "served"

    with ThreadPoolExecutor(24) as threads:
        outcomes = list(threads.map(one, range(600)))
    assert len(outcomes) == 600
    assert outcomes.count("served") > 100
    assert set(outcomes) <= {"served", "overloaded", "client_gone"}
    usage = admission.usage()
    assert (usage.reserved_blocks, usage.waiting, usage.requests) == (0, 0, 0)
