"""BACKEND=auto takes OpenVINO where it can run the model, else torch with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from capacity import Model, load_model, model_from_config
from rag.backends.choice import BackendChoice, choose_backend
from rag.errors import InvalidRequest, ModelRefused
from rag.settings import Settings
from tests.shapes import CONFIGS


def model(shape: str, **changed: Any) -> Model:
    return model_from_config(CONFIGS[shape].to_dict() | changed, shape)


def choose(chosen: Model, *, on_cpu: bool = True, **changed: Any) -> BackendChoice:
    return choose_backend(Settings(**changed), chosen, on_cpu=on_cpu)


@pytest.mark.parametrize("shape", ["llama", "qwen2", "qwen3", "mistral", "gemma3"])
def test_a_dense_decoder_on_a_cpu_runs_on_openvino(shape: str) -> None:
    assert choose(model(shape)) == BackendChoice("openvino")
    assert choose(model(shape), backend="torch") == BackendChoice("torch")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"attn_logit_softcapping": 50.0}, "capped"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic"),
        (
            {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 512}},
            "longrope",
        ),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised"),
    ],
)
def test_what_paged_attention_does_not_support_runs_on_torch_with_the_reason(
    changed: dict[str, Any], reason: str
) -> None:
    choice = choose(model("qwen3", **changed))
    assert choice.name == "torch"
    assert reason in str(choice.reason)
    with pytest.raises(ModelRefused, match=reason):
        choose(model("qwen3", **changed), backend="openvino")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Gemma-2-2B", "capped"),
        ("Qwen3-Next-80B-A3B", "recurrent"),
        ("flan-t5-small", "encoder–decoder"),
        ("DeepSeek-V3", "mla"),
    ],
)
def test_published_models_of_other_kinds_run_on_torch(name: str, reason: str) -> None:
    assert reason in str(choose(load_model(name)).reason)


def test_mixtures_of_experts_run_on_torch_unless_openvino_is_named() -> None:
    assert choose(model("gpt-oss")).name == "torch"
    assert choose(model("gpt-oss"), backend="openvino").name == "openvino"
    with pytest.raises(ModelRefused, match="experts"):
        choose(model("gpt-oss"), backend="openvino", weights="int8")


def test_a_gpu_runs_torch() -> None:
    assert choose(model("llama"), on_cpu=False).name == "torch"
    assert "CPU" in str(choose(model("llama"), device="cuda:1").reason)


def test_bfloat16_needs_a_cpu_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.backends.choice._capabilities", lambda: ("FP32",))
    assert "bfloat16" in str(choose(model("llama"), dtype="bfloat16").reason)
    monkeypatch.setattr("rag.backends.choice._capabilities", lambda: ("FP32", "BF16"))
    assert choose(model("llama"), dtype="bfloat16").name == "openvino"


@pytest.mark.parametrize("asked", [{"weights": "int8"}, {"kv_dtype": "u8"}])
def test_formats_that_torch_does_not_support_are_refused_with_it(asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="OpenVINO") as raised:
        choose(model("llama"), backend="torch", **asked)
    assert raised.value.field == next(iter(asked)).upper()
