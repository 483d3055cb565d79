"""Reading configurations: every family, every spelling, and refusal by name of what is not known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from capacity.catalog import document
from capacity.errors import BrokenFile, InvalidInput, UnknownName
from capacity.model.families import FAMILIES
from capacity.model.model import load_model, model_from_config, model_names

# Parameters of each family's class at its default configuration, counted on the reference implementation (transformers
# 5.23, meta device). Routers' correction biases are buffers there and parameters of the checkpoint here.
REFERENCE = {
    "llama": 6738415616,
    "smollm3": 3075098624,
    "arcee": 4022766080,
    "helium": 2172643840,
    "internlm3": 8804241408,
    "seed_oss": 28921040896,
    "apertus": 6979596352,
    "mistral": 7241732096,
    "ministral3": 8489553920,
    "mixtral": 46702792704,
    "qwen2": 12049846272,
    "qwen2_moe": 14315784192,
    "qwen3": 12049461248,
    "qwen3_moe": 15350731776,
    "qwen3_next": 79674391296,
    "qwen3_5_text": 8953803264,
    "qwen3_5_moe_text": 34660610688,
    "qwen2_vl_text": 72706203648,
    "qwen2_5_vl_text": 72706203648,
    "qwen3_vl_text": 12049461248,
    "gemma": 8537680896,
    "gemma2": 2614341888,
    "gemma3_text": 2628658432,
    "gemma3n_text": 6835235568
    + 15 * (2 * 2048 * 512 + 256),  # the checkpoints keep the unused K and V of sharing layers
    "gemma4_text": 5077177856,
    "phi": 1418270720,
    "phi3": 3821079552,
    "phimoe": 41872793600,
    "deepseek_v2": 38612307968,
    "deepseek_v3": 671026404352 + 58 * 256,
    "deepseek_v32": 671877929216 + 58 * 256,
    "glm4_moe_lite": 29943390976 + 46 * 64,
    "glm_moe_dsa": 743911199232 + 75 * 256,
    "glm": 9399951360,
    "glm4": 9400279040,
    "glm4_moe": 103481200640 + 45 * 128,
    "minimax_m2": 228689748992 + 62 * 256,
    "olmo": 6888095744,
    "olmo2": 6888624128,
    "olmo3": 6888624128,
    "olmoe": 13361612800,
    "cohere": 34980831232,
    "cohere2": 34980831232,
    "exaone4": 9429069824,
    "starcoder2": 3030371328,
    "gpt2": 124439808,
    "gpt_bigcode": 111446784,
    "gptj": 6050882784,
    "gpt_neox": 20554567680,
    "opt": 125239296,
    "bloom": 16156544,
    "falcon": 6921720704,
    "stablelm": 2795443200,
    "granite": 6738415616,
    "granitemoe": 37039116288,
    "granitemoeshared": 37039116288,
    "flex_olmo": 33270665216,
    "solar_open": 102651793408 + 48 * 128,
    "falcon_h1": 8514961408,
    "jamba": 51570323328,
    "gpt_oss": 116829156672,
    "llama4_text": 107769861120,
    "ernie4_5": 360748032,
    "ernie4_5_moe": 21825437888,
    "t5": 60506624,
    "mt5": 172119424,
    "umt5": 172122112,
}


@pytest.mark.parametrize("model_type", sorted(REFERENCE))
def test_parameters_of_each_family_are_those_of_the_reference_implementation(model_type: str) -> None:
    routed = {"num_experts_per_tok": 6} if model_type == "deepseek_v2" else {}  # its class leaves that open
    model = model_from_config({"model_type": model_type, **routed}, model_type)
    assert sum(part.total_elements for part in model.parts if part.loaded) == REFERENCE[model_type]


def test_every_family_has_layers_and_parameters() -> None:
    needed: dict[str, dict[str, Any]] = {
        "bamba": {"attn_layer_indices": [9, 18, 27]},
        "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 16},
        "nemotron_h": {"hybrid_override_pattern": "M-M*ME"},
        "deepseek_v2": {"num_experts_per_tok": 6},
        "dots1": {"n_routed_experts": 8, "n_shared_experts": 2, "num_experts_per_tok": 2},
    }
    for model_type in FAMILIES:
        model = model_from_config({"model_type": model_type, **needed.get(model_type, {})}, model_type)
        assert model.layers, model_type
        assert 0 < model.parameters.active <= model.parameters.total, model_type


def test_an_unknown_model_type_is_refused_by_name_and_never_guessed() -> None:
    with pytest.raises(UnknownName, match=r"model_type 'lama'.*llama"):
        model_from_config({"model_type": "lama", "hidden_size": 8}, "x")


def test_an_unknown_dtype_is_refused_by_name() -> None:
    with pytest.raises(UnknownName, match="dtype 'float17'"):
        model_from_config({"model_type": "llama", "dtype": "float17"}, "x")


def test_an_unknown_layer_type_is_refused_by_name() -> None:
    with pytest.raises(UnknownName, match="layer type 'psychic_attention'"):
        model_from_config({"model_type": "llama", "num_hidden_layers": 1, "layer_types": ["psychic_attention"]}, "x")


def test_an_unknown_quantisation_is_refused_by_name() -> None:
    with pytest.raises(UnknownName, match="quant_method 'mystery'"):
        model_from_config({"model_type": "llama", "quantization_config": {"quant_method": "mystery"}}, "x")


def test_an_unknown_model_names_the_nearest_three() -> None:
    with pytest.raises(UnknownName) as refused:
        load_model("gpt-os-120b")
    assert refused.value.nearest[0] == "gpt-oss-120b"
    assert len(refused.value.nearest) == 3


def test_the_spellings_of_older_reports_are_aliases() -> None:
    assert load_model("opt-oss-120b").name == "gpt-oss-120b"
    assert load_model("opt-oss-20b").name == "gpt-oss-20b"


def test_hub_ids_and_letter_case_find_the_catalogue_entry() -> None:
    assert load_model("meta-llama/llama-3.1-8b").name == "Llama-3.1-8B"
    assert len(model_names()) >= 43


def test_a_nested_text_config_is_read_with_its_class_defaults() -> None:
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
    text |= {"sliding_window": 1024}
    model = model_from_config({"model_type": "gemma3", "text_config": text}, "gemma-3-4b")
    assert [layer.kind for layer in model.layers].count("full") == 5
    assert (model.layers[0].kv_heads, model.layers[0].k_dim) == (4, 256)
    assert sum(part.total_elements for part in model.parts) == 3_880_263_168  # the published text parameters


def test_a_switched_off_window_does_not_count() -> None:
    raw = {"model_type": "qwen2", "num_hidden_layers": 4, "sliding_window": 128, "max_window_layers": 2}
    assert {layer.kind for layer in model_from_config(raw, "off").layers} == {"full"}
    on = model_from_config({**raw, "use_sliding_window": True}, "on")
    assert [layer.kind for layer in on.layers] == ["full", "full", "sliding", "sliding"]


def test_an_explicit_head_dim_wins_over_the_quotient() -> None:
    assert load_model("Qwen3-32B").layers[0].k_dim == 128
    assert load_model("Mistral-Small-3.1-24B").layers[0].k_dim == 128


def test_layers_that_read_another_layers_cache_own_none() -> None:
    kinds = [layer.kind for layer in load_model("Gemma-3n-E4B").layers]
    assert kinds[20:] == ["none"] * 15
    assert kinds[:20].count("full") == 4


def test_a_folder_is_read_and_a_missing_one_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert load_model(str(tmp_path)).config.model_type == "gpt2"
    with pytest.raises(BrokenFile, match=r"no config\.json"):
        (tmp_path / "empty").mkdir()
        load_model(str(tmp_path / "empty"))


def test_a_broken_config_names_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2",\n "n_layer": }')
    with pytest.raises(BrokenFile, match="line 2, column 13"):
        load_model(str(tmp_path))


def test_a_hub_id_is_found_in_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "hub/models--acme--tiny/snapshots/abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "hub/models--acme--tiny/refs").mkdir()
    (tmp_path / "hub/models--acme--tiny/refs/main").write_text("abc")
    (snapshot / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_layer": 3}))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    assert len(load_model("acme/tiny").layers) == 3
    with pytest.raises(UnknownName):
        load_model("acme/other")


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_hidden_layers", 0), ("num_hidden_layers", "12"), ("hidden_size", -4), ("num_key_value_heads", True)],
)
def test_a_field_of_the_wrong_kind_is_named(field: str, value: object) -> None:
    with pytest.raises(InvalidInput, match=field):
        model_from_config({"model_type": "llama", field: value}, "x")


PUBLISHED = [entry for entry in document("models")["models"] if "params_total" in entry]


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: str(entry["name"]))
def test_every_catalogue_model_counts_its_published_parameters(entry: dict[str, Any]) -> None:
    model = load_model(entry["name"])
    own = sum(part.total_elements for part in model.parts if part.loaded)
    assert entry["params_total"] in (own, model.parameters.total)


def test_active_parameters_leave_the_embedding_table_out() -> None:
    assert load_model("gpt-oss-120b").parameters.active == 5_132_849_472  # its card says 5.13e9
