"""The verdict page: each claim is judged by the figures alone, and the committed page is what the script makes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from benchmarks.harness import design_claims
from benchmarks.harness.design_claims import (
    CLAIMS,
    FAILS,
    HOLDS,
    MICROSERVICES,
    MONOLITH,
    PARTLY,
    UNMEASURED,
    judge_all,
)
from benchmarks.harness.wording import speaker
from benchmarks.verdicts import PAGE, RESULTS, read, render
from tests.comparison_results import compared, figure, operation


def verdicts(
    changed: dict[str, Any] | None = None, also: dict[str, Any] | None = None
) -> dict[str, design_claims.ClaimVerdict]:
    found = judge_all(changed or compared(), also or operation(), speaker("en"))
    return {verdict.claim.name: verdict for verdict in found}


def test_twelve_claims_are_judged_three_for_and_three_against_each_design() -> None:
    sides = [(claim.about, claim.praise) for claim in CLAIMS]
    assert {side: sides.count(side) for side in sides} == {
        (MONOLITH, True): 3, (MONOLITH, False): 3, (MICROSERVICES, True): 3, (MICROSERVICES, False): 3,
    }  # fmt: skip
    assert not [verdict for verdict in verdicts().values() if verdict.verdict == UNMEASURED]


@pytest.mark.parametrize(
    ("monolith", "microservices", "expected"),
    [
        (figure(0.002, 0.001, 0.003), figure(0.006, 0.005, 0.007), HOLDS),
        (figure(0.006, 0.005, 0.007), figure(0.002, 0.001, 0.003), FAILS),
        (figure(0.004, 0.002, 0.006), figure(0.005, 0.003, 0.007), PARTLY),
    ],
)
def test_latency_is_decided_by_the_intervals_and_not_by_the_means(
    monolith: dict[str, Any], microservices: dict[str, Any], expected: str
) -> None:
    changed = compared()
    for name, measured in ((MONOLITH, monolith), (MICROSERVICES, microservices)):
        changed["added"][name]["added_s"]["p50"] = measured
    found = verdicts(changed)
    assert (found["internal_latency"].verdict, found["network_overhead"].verdict) == (expected, expected)


def test_a_refused_allocation_that_costs_nothing_makes_the_cascade_hold_only_in_part() -> None:
    assert verdicts()["cascade_crash"].verdict == PARTLY
    changed = compared()
    changed["faults"][MONOLITH]["memory_refused"]["modes"]["retrieve"] |= {"lost": 9, "out_s": 4.0}
    assert verdicts(changed)["cascade_crash"].verdict == HOLDS


def test_a_fault_that_reaches_the_other_service_denies_the_isolation() -> None:
    assert verdicts()["isolation"].verdict == HOLDS
    changed = compared()
    changed["faults"][MICROSERVICES]["llm_killed"]["modes"]["retrieve"] |= {"lost": 1, "out_s": 0.2}
    assert verdicts(changed)["isolation"].verdict == FAILS


def test_retrieval_that_never_answers_with_a_damaged_llm_is_coupling() -> None:
    assert verdicts()["coupling"].verdict == HOLDS
    also = operation()
    also[MONOLITH]["damaged_llm"]["retrieves_after_s"] = 4.0
    assert verdicts(also=also)["coupling"].verdict == FAILS


def test_a_claim_that_fails_speaks_for_the_other_design() -> None:
    found = verdicts()
    assert found["base_ram"].favours == MONOLITH
    changed = compared()
    changed["memory"][MICROSERVICES]["pss_bytes"] = 1
    assert verdicts(changed)["base_ram"].favours == MICROSERVICES
    assert found["cascade_crash"].favours is None


def test_what_was_left_out_of_a_run_is_unmeasured_and_the_rest_still_judged() -> None:
    changed = compared()
    del changed["faults"], changed["cost"]
    found = verdicts(changed)
    unmeasured = {name for name, verdict in found.items() if verdict.verdict == UNMEASURED}
    assert unmeasured == {"cascade_crash", "isolation", "hardware_waste", "heterogeneous_hardware"}


def test_the_page_says_the_same_in_both_languages_with_each_ones_marks() -> None:
    page = render(compared(), operation())
    portuguese, english = page.split("## English")
    assert "2,10 ms (1,90–2,30)" in portuguese
    assert "2.10 ms (1.90–2.30)" in english
    assert portuguese.count("\n| **") == english.count("\n| **") == len(CLAIMS)
    assert "A short run" in english
    whole = copy.deepcopy(compared())
    whole["quick"] = False
    assert "A short run" not in render(whole, operation())


@pytest.mark.skipif(not any(RESULTS.glob("compare-*.json")), reason="no results are committed")
def test_the_committed_page_is_what_the_committed_results_make() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(*read()), "python -m benchmarks.verdicts"
