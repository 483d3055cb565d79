"""Plans and refusals: one function decides, every offered fix works, and JSON keeps a plan unchanged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import sizing
from capacity import (
    EngineSpec,
    InvalidInput,
    Measured,
    Plan,
    Request,
    Workload,
    apply_fix,
    check,
    load_hardware,
    load_model,
    make_plan,
    refuse,
    this_machine,
)
from capacity.hardware.nodes import Hardware
from capacity.units import GIB

ROOT = Path(__file__).parents[3]
MODELS = [
    "Llama-3.1-8B",
    "Llama-3.1-70B",
    "gpt-oss-20b",
    "gpt-oss-120b",
    "Gemma-3-27B",
    "DeepSeek-V2-Lite",
    "DeepSeek-V3",
    "Qwen3-Next-80B-A3B",
    "Nemotron-3-Nano-30B-A3B",
    "Mistral-7B-v0.1",
    "Phi-4",
    "SmolLM2-135M",
    "Llama-4-Scout-17B-16E",
]
MACHINES = ["ml.g4dn.xlarge", "ml.g5.xlarge", "ml.g5.12xlarge", "ml.g6e.xlarge", "ml.p4d.24xlarge", "dgx300", "L40S"]


def request(model: str, machine: str, context: int, concurrency: int, **engine: Any) -> Request:
    return Request(load_model(model), load_hardware(machine), Workload(context, concurrency), EngineSpec(**engine))


@st.composite
def requests(draw: st.DrawFn) -> Request:
    model = load_model(draw(st.sampled_from(MODELS)))
    machine: Hardware = draw(st.sampled_from([*map(load_hardware, MACHINES), this_machine(4 * GIB)]))
    limit = min(model.max_context_tokens or 4096, 1_000_000)
    context = draw(st.integers(1, limit))
    heads = [count for count in (None, 1, 2, 4, 8) if count is None or model.attention_heads % count == 0]
    ranks = draw(st.sampled_from([count for count in heads if count is None or count <= machine.devices]))
    engine = EngineSpec(
        tensor_parallel=ranks,
        instances=draw(st.sampled_from([None, 1, 3])),
        kv_dtype=draw(st.sampled_from([None, "fp32", "fp8", "int8"])),
        hybrid_allocator=draw(st.booleans()),
        kv_slots=draw(st.booleans()),
        reserve_bytes=draw(st.sampled_from([0, GIB])),
        block_size_tokens=draw(st.sampled_from([1, 16, 128])),
    )
    load = Workload(
        context,
        draw(st.integers(1, 3000)),
        embedder_bytes=draw(st.sampled_from([0, 90_000_000])),
        vectors=draw(st.sampled_from([0, 100_000, 50_000_000])),
    )
    return Request(model, machine, load, engine)


@pytest.mark.slow
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(requests())
def test_applying_any_fix_of_any_refusal_makes_the_check_pass(asked: Request) -> None:
    verdict = check(asked)
    assume(not verdict.fits)
    refusal = refuse(asked, verdict)
    assert refusal.short_by_bytes > 0
    for fix in refusal.fixes:
        assert fix.verified
        assert check(apply_fix(asked, fix)).fits, fix
    if refusal.largest_concurrency:
        assert check(asked.with_changes(concurrency=refusal.largest_concurrency)).fits
    assert not check(asked.with_changes(concurrency=refusal.largest_concurrency + 1)).fits
    if refusal.largest_context_tokens:
        assert check(asked.with_changes(context_tokens=refusal.largest_context_tokens)).fits
    assert not check(asked.with_changes(context_tokens=refusal.largest_context_tokens + 1)).fits


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(requests())
def test_a_plan_that_fits_also_passes_the_check_at_its_own_size(asked: Request) -> None:
    verdict = make_plan(asked)
    assume(verdict.fits)
    made = verdict.plan
    assert check(asked.with_changes(instances=made.instances, tensor_parallel=made.tensor_parallel)).fits
    assert made.instances * made.sessions_per_instance >= asked.workload.concurrency
    if asked.engine.instances is None and made.instances > 1:
        assert not check(asked.with_changes(instances=made.instances - 1)).fits


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(requests(), st.data())
def test_less_never_turns_a_fit_into_a_misfit(asked: Request, data: st.DataObject) -> None:
    fewer = data.draw(st.integers(1, asked.workload.concurrency))
    shorter = data.draw(st.integers(1, asked.workload.context_tokens))
    more = (asked.engine.instances or 1) + 1
    misfit = not check(asked).fits
    assert misfit or check(asked.with_changes(concurrency=fewer)).fits
    assert misfit or check(asked.with_changes(context_tokens=shorter)).fits
    assert misfit or check(asked.with_changes(instances=more)).fits


@settings(max_examples=40, deadline=None)
@given(requests())
def test_a_plan_goes_to_json_and_back_unchanged(asked: Request) -> None:
    made = make_plan(asked).plan
    assert Plan.from_json(json.loads(json.dumps(made.to_json()))) == made
    packed = made.pack()
    assert len(packed) <= 1024
    assert packed.isascii()
    assert Plan.unpack(packed) == made


@pytest.mark.parametrize("text", ["", "nonsense", "eJwDAAAAAAE=", "aGVsbG8="])
def test_what_is_no_packed_plan_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="plan"):
        Plan.unpack(text)


def test_a_plan_of_another_schema_or_with_missing_fields_is_refused() -> None:
    made = make_plan(request("Qwen2.5-0.5B", "L4", 1024, 1)).plan.to_json()
    with pytest.raises(InvalidInput, match="schema"):
        Plan.from_json({**made, "schema": "capacity.planning.plan/0"})
    del made["num_blocks"]
    with pytest.raises(InvalidInput, match="num_blocks"):
        Plan.from_json(made)


def test_the_terms_add_up_and_each_is_labelled() -> None:
    made = make_plan(request("gpt-oss-120b", "dgx300", 131072, 1000, kv_dtype="fp8")).plan
    on_device = [term for term in made.terms if "main memory" not in term.name]
    assert sum(term.bytes for term in on_device) == made.need_total_bytes <= made.have_bytes
    assert {term.label for term in made.terms} == {"exact", "estimated"}
    assert set(made.need_bytes) == {"weights", "embedder", "index", "kv", "workspace", "reserve"}


def test_a_measured_term_replaces_its_estimate_and_says_so() -> None:
    measured = Measured(activation_bytes=GIB, graph_bytes=0, runtime_bytes=GIB, weights_bytes=15 * GIB)
    made = check(request("Llama-3.1-8B", "L40S", 8192, 8, measured=measured)).plan
    labels = {term.name: (term.bytes, term.label) for term in made.terms}
    assert labels["activation"] == (GIB, "measured")
    assert labels["weights"] == (15 * GIB, "measured")


def test_memory_is_counted_by_rank_and_never_pooled_over_a_node() -> None:
    # 8 × 24 GiB are 192 GiB, but 8 replicas of a 15 GiB model leave little on each.
    made = check(request("Llama-3.1-8B", "ml.g5.48xlarge", 8192, 8, tensor_parallel=1)).plan
    assert made.sessions_per_instance == 8 * made.sessions_per_replica
    assert made.sessions_per_replica * made.kv_bytes_per_session < 24 * GIB - 15 * GIB


def test_no_session_at_all_is_a_refusal_not_a_million_nodes() -> None:
    asked = request("Llama-3.1-405B", "ml.g5.xlarge", 8192, 4)
    verdict = make_plan(asked)
    assert not verdict.fits
    assert verdict.plan.instances == 1
    refusal = refuse(asked, verdict)
    assert (refusal.largest_context_tokens, refusal.largest_concurrency) == (0, 0)
    assert refusal.fixes


def test_a_refusal_names_need_have_and_what_is_short() -> None:
    asked = request("Llama-3.1-8B", "ml.g5.xlarge", 8192, 64)
    refusal = refuse(asked, check(asked)).to_json()
    need, have = sum(refusal["need_bytes"].values()), refusal["have_bytes"]
    assert refusal["short_by_bytes"] == need - have
    assert refusal["code"] == "does_not_fit"
    assert refusal["requested"] == {"context": 8192, "new_tokens": 0, "concurrency": 64}
    assert refusal["largest_that_fits"]["concurrency_at_context"] >= 1
    assert {fix["kind"] for fix in refusal["fixes"]} >= {"instances", "hardware", "context", "concurrency"}
    assert json.dumps(refusal)


def test_fixes_that_keep_the_workload_whole_come_first() -> None:
    asked = request("Qwen3-32B", "ml.g6e.12xlarge", 32768, 12, tensor_parallel=2)
    kinds = [fix.kind for fix in refuse(asked, check(asked)).fixes]
    assert kinds[-2:] == ["context", "concurrency"]
    assert kinds.index("weights_dtype") < kinds.index("instances") < kinds.index("hardware")


def test_fp8_is_not_offered_where_the_card_has_none() -> None:
    asked = request("Llama-3.1-8B", "ml.g5.xlarge", 8192, 6)  # compute capability 8.6
    changes = [fix.changes for fix in refuse(asked, check(asked)).fixes]
    assert changes
    assert all("fp8" not in (change.get("kv_dtype"), change.get("weights_dtype")) for change in changes)


def test_an_index_beside_gpus_must_fit_the_nodes_main_memory() -> None:
    model, machine = load_model("Qwen2.5-0.5B"), load_hardware("ml.g5.xlarge")
    asked = Request(model, machine, Workload(1024, 1, vectors=50_000_000, dimensions=384))
    verdict = check(asked)
    assert (verdict.fits, verdict.pool) == (False, "host")
    refusal = refuse(asked, verdict)
    assert "main memory" in refusal.message
    assert refusal.fixes[0].kind == "hardware"


def test_a_small_cpu_container_gets_blocks_and_bytes() -> None:
    model, box = load_model("SmolLM2-135M"), this_machine(2 * GIB)
    load = Workload(2048, 4, embedder_bytes=90_852_864, vectors=10_000)
    made = check(
        Request(model, box, load, EngineSpec(kv_dtype="fp32", weights_dtype="fp32", block_size_tokens=32))
    ).plan
    assert made.num_blocks == 4 * 2048 // 32
    assert made.block_bytes == 30 * 2 * 3 * 64 * 4 * 32
    assert made.kv_bytes == made.num_blocks * made.block_bytes
    assert made.need_total_bytes <= made.have_bytes == int(2 * GIB * 0.9)
    assert made.need_bytes["weights"] == 134_515_008 * 4
    assert made.need_bytes["index"] == 10_000 * 384 * 4


def test_a_container_too_small_gets_a_fix_with_the_memory_that_suffices() -> None:
    asked = Request(load_model("SmolLM2-1.7B"), this_machine(2 * GIB), Workload(8192, 2))
    fixes = {fix.kind: fix for fix in refuse(asked, check(asked)).fixes}
    assert check(apply_fix(asked, fixes["memory"])).fits


def test_a_pipeline_counts_its_fullest_stage() -> None:
    whole = check(request("Llama-3.1-70B", "ml.p4d.24xlarge", 8192, 4, tensor_parallel=8)).plan
    staged = check(request("Llama-3.1-70B", "ml.p4d.24xlarge", 8192, 4, tensor_parallel=4, pipeline_parallel=2)).plan
    assert staged.replicas_per_instance == 1
    assert staged.need_bytes["weights"] == pytest.approx(whole.need_bytes["weights"], rel=0.05)


def test_windowed_layers_keep_a_steps_tokens_in_flight_once() -> None:
    made = check(request("gpt-oss-20b", "L40S", 131072, 2, tensor_parallel=1)).plan
    kv = made.need_bytes["kv"]
    in_flight = 12 * 2 * 8 * 64 * 2 * made.max_batch_tokens
    assert kv == 2 * made.kv_bytes_per_session + in_flight


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tensor_parallel": 3}, "tensor_parallel: 3 does not divide"),
        ({"tensor_parallel": 16}, "exceed 8 device"),
        ({"pipeline_parallel": 100}, "100 stages for 32 layers"),
        ({"utilization": 1.2}, "utilization"),
        ({"instances": 0}, "instances: 0 is below 1"),
        ({"kv_dtype": "fp3"}, "KV dtype 'fp3'"),
    ],
)
def test_contradictions_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        request("Llama-3.1-8B", "dgx300", 8192, 4, **changes)


def test_context_above_the_models_maximum_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"200000 tokens is above Llama-3\.1-8B's maximum of 131072"):
        request("Llama-3.1-8B", "dgx300", 200_000, 4)


@pytest.mark.parametrize(
    ("model", "machine", "context", "concurrency"),
    [
        ("Llama-3.1-8B", "ml.g5.xlarge", 8192, 64),
        ("Qwen3-32B", "ml.g6e.12xlarge", 32768, 24),
        ("gpt-oss-120b", "ml.g6e.12xlarge", 131072, 20),
        ("Llama-3.1-405B", "ml.g5.xlarge", 8192, 4),
    ],
)
def test_the_flags_of_a_fix_pass_on_the_command_line(
    model: str, machine: str, context: int, concurrency: int, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["check", "--model", model, "--hardware", machine, "--context", str(context)]
    base += ["--concurrency", str(concurrency), "--json"]
    assert sizing.main(base) == 3
    fixes = json.loads(capsys.readouterr().out)["fixes"]
    assert fixes
    for fix in fixes:
        flags = fix["flags"].replace("'", "").split(" ") if "DGX" not in fix["flags"] else fix["flags"].split("'")
        arguments = [flag.strip() for flag in flags if flag.strip()]
        assert sizing.main([*base, *arguments]) == 0, fix


def test_capacity_imports_with_every_heavy_library_blocked() -> None:
    program = (
        "import sys\n"
        "for name in ('torch', 'flask', 'faiss', 'transformers', 'numpy', 'rich'): sys.modules[name] = None\n"
        "import capacity\n"
        "assert all(getattr(capacity, name) is not None for name in capacity.__all__)\n"
        "import sizing; assert sizing.load_model('gpt-oss-20b').layers\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_plan_takes_less_than_fifty_milliseconds_after_start() -> None:
    program = (
        "import time; from capacity.model.model import load_model; from capacity.hardware.nodes import load_hardware\n"
        "from capacity.planning.plan import make_plan\n"
        "from capacity.planning.workload import EngineSpec, Request, Workload\n"
        "begin = time.process_time()\n"
        "load, engine = Workload(131072, 1000), EngineSpec(kv_dtype='fp8')\n"
        "asked = Request(load_model('gpt-oss-120b'), load_hardware('dgx300'), load, engine)\n"
        "assert make_plan(asked).fits\n"
        "print(time.process_time() - begin)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.05


def test_an_engine_of_slots_holds_one_block_a_session() -> None:
    model, box = load_model("SmolLM2-135M"), this_machine(4 * GIB)
    made = check(Request(model, box, Workload(2048, 3), EngineSpec(kv_dtype="fp32", kv_slots=True))).plan
    assert (made.block_size_tokens, made.blocks_per_session, made.num_blocks, made.slot_bytes) == (2048, 1, 3, 0)
    assert made.kv_bytes == 3 * 2048 * 30 * 2 * 3 * 64 * 4


def test_slots_keep_a_window_and_a_steps_tokens_and_recurrent_state() -> None:
    windowed = request("Gemma-3-12B", "L40S", 8192, 1, kv_slots=True, max_batch_tokens=512, tensor_parallel=1)
    token = 2 * 8 * 256 * 2
    assert check(windowed).plan.block_bytes == token * (8 * 8192 + 40 * (1024 + 512 - 1))
    hybrid = request("Qwen3-Next-80B-A3B", "dgx300", 1024, 1, kv_slots=True, tensor_parallel=1)
    assert check(hybrid).plan.block_bytes == 24_576 * 1024 + 77_266_944
