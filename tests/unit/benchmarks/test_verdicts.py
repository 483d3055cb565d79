"""The comparison page: claims are judged by the figures only, and the committed page equals the generated one."""

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
from benchmarks.harness.wording import locale_for
from benchmarks.verdicts import PAGE, RESULTS, read, render
from tests.comparison_results import compared, figure, operation


def verdicts(
    changed: dict[str, Any] | None = None, also: dict[str, Any] | None = None
) -> dict[str, design_claims.ClaimVerdict]:
    found = judge_all(changed or compared(), also or operation(), locale_for("en"))
    return {verdict.claim.name: verdict for verdict in found}


def test_there_are_three_advantages_and_three_drawbacks_of_each_design() -> None:
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
def test_latency_is_judged_by_the_intervals_not_the_means(
    monolith: dict[str, Any], microservices: dict[str, Any], expected: str
) -> None:
    changed = compared()
    for name, measured in ((MONOLITH, monolith), (MICROSERVICES, microservices)):
        changed["added"][name]["added_s"]["p50"] = measured
    found = verdicts(changed)
    assert (found["internal_latency"].verdict, found["network_overhead"].verdict) == (expected, expected)


def test_the_cascade_holds_only_in_part_if_failed_allocations_lose_no_request() -> None:
    assert verdicts()["cascade_crash"].verdict == PARTLY
    changed = compared()
    changed["faults"][MONOLITH]["memory_refused"]["modes"]["retrieve"] |= {"lost": 9, "out_s": 4.0}
    assert verdicts(changed)["cascade_crash"].verdict == HOLDS


def test_isolation_fails_if_a_fault_affects_the_other_service() -> None:
    assert verdicts()["isolation"].verdict == HOLDS
    changed = compared()
    changed["faults"][MICROSERVICES]["llm_killed"]["modes"]["retrieve"] |= {"lost": 1, "out_s": 0.2}
    assert verdicts(changed)["isolation"].verdict == FAILS


def test_coupling_holds_if_retrieval_never_answers_with_a_corrupt_llm() -> None:
    assert verdicts()["coupling"].verdict == HOLDS
    also = operation()
    also[MONOLITH]["damaged_llm"]["retrieves_after_s"] = 4.0
    assert verdicts(also=also)["coupling"].verdict == FAILS


def test_a_drawback_that_fails_favours_its_design() -> None:
    found = verdicts()
    assert found["base_ram"].favours == MONOLITH
    changed = compared()
    changed["memory"][MICROSERVICES]["pss_bytes"] = 1
    assert verdicts(changed)["base_ram"].favours == MICROSERVICES
    assert found["cascade_crash"].favours is None


def test_parts_missing_in_a_run_are_unmeasured_and_the_rest_is_judged() -> None:
    changed = compared()
    del changed["faults"], changed["cost"]
    found = verdicts(changed)
    unmeasured = {name for name, verdict in found.items() if verdict.verdict == UNMEASURED}
    assert unmeasured == {"cascade_crash", "isolation", "hardware_waste", "heterogeneous_hardware"}


def test_the_page_has_the_same_content_in_both_languages_with_each_number_format() -> None:
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
def test_the_committed_page_equals_the_one_generated_from_the_committed_results() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(*read()), "python -m benchmarks.verdicts"
