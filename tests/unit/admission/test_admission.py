"""Admission: which requests are admitted, queue or are refused, and the figures of a refusal."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rag.admission.ledger_admission import LedgerAdmission, LedgerPermit
from rag.admission.rates import Rates
from rag.cancellation import Call
from rag.errors import ClientGone, Draining, Overloaded, PromptTooLong, RagError
from tests.fakes import fake_admission
from tests.waiting import until

CONTEXT = 256


def admit(
    admission: LedgerAdmission, prompt: int = 200, new: int = 56, call: Call | None = None, **options: Any
) -> LedgerPermit:
    return admission.admit(prompt, new, call or Call(), **{"deadline_s": 50.0, **options})


def test_what_is_reserved_is_the_worst_case_and_shrinks_to_the_real_size() -> None:
    admission = fake_admission(2, block_tokens=16)
    permit = admit(admission)
    assert admission.usage().reserved_blocks == 16
    permit.shrink(40)
    assert admission.usage().reserved_blocks == 3
    permit.release()
    permit.release()
    assert admission.usage().reserved_blocks == 0


def test_a_queued_request_is_admitted_when_another_ends() -> None:
    admission = fake_admission(1)
    first = admit(admission)
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(admit, admission)
        until(lambda: admission.usage().waiting == 1)
        first.release()
        permit = second.result(5)
    permit.release()
    assert admission.usage().reserved_blocks == 0


def test_a_full_queue_refuses_with_figures_and_a_time_to_retry() -> None:
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


def test_with_free_memory_but_no_place_the_time_to_retry_counts_the_places() -> None:
    admission = fake_admission(4, sequences=2, block_tokens=16, max_waiting=0)
    admit(admission).release()
    admission._estimate.held_s[0] = 8.0
    held = [admit(admission, prompt=8, new=8) for _ in range(2)]
    with pytest.raises(Overloaded) as raised:
        admit(admission, prompt=8, new=8)
    assert raised.value.retry_after_s == pytest.approx(4.0)  # one of two places, each held for 8 s
    with pytest.raises(Overloaded) as raised:
        admit(admission, prompt=8, new=8)
    assert raised.value.retry_after_s == pytest.approx(8.0)  # after the request that was refused before
    for permit in held:
        permit.release()


def test_an_idle_hour_does_not_make_the_next_wait_look_long() -> None:
    admission = fake_admission(1, longest_wait_s=0.3)
    admit(admission).release()
    admission._estimate.held_s[0] = 0.01
    time.sleep(0.4)  # longer than the longest wait
    held = admit(admission)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(admit, admission)
        until(lambda: admission.usage().waiting == 1)
        held.release()
        waiting.result(5).release()


def test_a_wait_expected_to_exceed_the_longest_is_refused_at_once() -> None:
    admission = fake_admission(1, longest_wait_s=2.0)
    admission._estimate.held_s.append(30.0)
    held = admit(admission)
    began = time.monotonic()
    with pytest.raises(Overloaded) as raised:
        admit(admission)
    assert time.monotonic() - began < 1
    assert raised.value.retry_after_s == 30.0
    held.release()


def test_a_request_that_has_waited_the_longest_time_is_refused() -> None:
    admission = fake_admission(1, longest_wait_s=0.05)
    held = admit(admission)
    with pytest.raises(Overloaded):
        admit(admission)
    assert admission.usage().waiting == 0
    held.release()


def test_a_request_whose_client_disconnects_leaves_the_queue() -> None:
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


def test_a_context_above_the_governed_one_needs_allow_long_context() -> None:
    admission = fake_admission(4, governed_tokens=128, long_share=0.25)
    with pytest.raises(PromptTooLong) as raised:
        admit(admission)
    assert {"set": {"allow_long_context": True}} in (raised.value.figures or {})["fixes"]
    long = admit(admission, allow_long=True)
    short = admit(admission, 60, 60)
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(admit, admission, allow_long=True)
        until(lambda: admission.usage().waiting == 1)  # the share of long contexts is used up, though memory is free
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
    admission.check_deadline(100, 18, 10.0)  # 1 s of prefill and 9 s of decode
    with pytest.raises(PromptTooLong) as raised:
        admission.check_deadline(100, 19, 10.0)
    assert (raised.value.figures or {})["fixes"] == [{"set": {"max_new_tokens": 18}}]


def test_one_slow_step_refuses_no_request() -> None:
    rates = Rates()
    rates.observe(prefill_tokens=0, decodes=1, seconds=0.01)
    rates.observe(prefill_tokens=0, decodes=1, seconds=30.0)
    fake_admission(2, rates=rates).check_deadline(10, 100, 10.0)


def test_draining_refuses_queued_and_new_requests_and_ends_running_ones() -> None:
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


def test_after_memory_ran_out_one_session_less_is_admitted_but_at_least_one() -> None:
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


def test_after_600_concurrent_requests_the_ledger_is_empty_and_each_was_answered_once() -> None:
    admission = fake_admission(3, block_tokens=16, max_waiting=6, longest_wait_s=0.5)

    def request(number: int) -> str:
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
        outcomes = list(threads.map(request, range(600)))
    assert len(outcomes) == 600
    assert outcomes.count("served") > 100
    assert set(outcomes) <= {"served", "overloaded", "client_gone"}
    usage = admission.usage()
    assert (usage.reserved_blocks, usage.waiting, usage.requests) == (0, 0, 0)
