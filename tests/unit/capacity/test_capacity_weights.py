"""Weight bytes: exact from files, by formula otherwise, and shared out as engines' start-up logs show."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path

import pytest

from capacity.catalog import document
from capacity.errors import BrokenFile
from capacity.memory.allocation import rounding_bytes
from capacity.memory.weights import checkpoint_bytes, rank_weights, stages
from capacity.model.model import load_model, model_from_config
from capacity.model.safetensors import read_checkpoint
from capacity.units import GIB, MIB


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Llama-3.1-70B", 141_107_412_992),
        ("Qwen2.5-72B", 145_412_407_296),
        ("Qwen2.5-7B", 15_231_233_024),
        ("Gemma-3-27B", 54_864_813_280),
        ("gpt-oss-120b", 65_248_815_744),
        ("gpt-oss-20b", 13_761_264_768),
        ("DeepSeek-V3", 688_586_727_753),
    ],
)
def test_published_totals_are_met_to_the_byte(name: str, size: int) -> None:
    assert checkpoint_bytes(load_model(name))[:2] == (size, True)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Llama-3.1-70B", 141_107_412_992),
        ("Gemma-3-27B", 54_864_813_280),
        ("gpt-oss-120b", 65_248_815_744),
        ("gpt-oss-20b", 13_761_264_768),
        ("Qwen3-Next-80B-A3B", 162_649_725_440),
    ],
)
def test_the_formula_alone_gives_the_same_totals_and_says_estimated(name: str, size: int) -> None:
    unknown = dataclasses.replace(load_model(name), checkpoint=None)
    assert checkpoint_bytes(unknown)[:2] == (size, False)


def test_block_scaled_fp8_files_are_within_a_ten_thousandth() -> None:
    unknown = dataclasses.replace(load_model("DeepSeek-V3"), checkpoint=None)
    assert checkpoint_bytes(unknown)[0] == pytest.approx(688_586_727_753, rel=1e-4)


# "Model loading took … GiB" lines of public engine logs, per rank.
LOGGED = [
    ("gpt-oss-120b", 1, None, 64.38),
    ("gpt-oss-20b", 1, None, 13.47),
    ("Llama-3.1-8B", 1, None, 14.9888),
    ("Llama-3.1-8B", 1, "fp8", 8.4926),
    ("Llama-3.1-70B", 1, "fp8", 67.7229),
    ("Llama-3.1-70B", 2, "fp8", 33.88),
    ("Qwen3-32B", 1, None, 61.03),
    ("Qwen3-30B-A3B", 1, None, 56.9001),
    ("Qwen3-30B-A3B", 2, None, 28.4767),
    ("Qwen3-30B-A3B", 4, None, 14.2474),
    ("Gemma-3-27B", 4, None, 13.1665),
    ("DeepSeek-V2-Lite", 1, None, 29.3010),
    ("DeepSeek-R1", 8, None, 79.41),
    ("Qwen2.5-7B", 1, None, 14.2487),
    ("Qwen2.5-14B", 1, None, 27.5681),
    ("Gemma-3-1B", 1, None, 1.9134),
    ("Qwen3-0.6B", 1, None, 1.12),
    ("Qwen3-8B", 1, None, 15.2684),
    ("Qwen3-14B", 1, None, 27.5185),
    ("Mistral-7B-v0.3", 1, None, 13.5084),
]


@pytest.mark.parametrize(("name", "ranks", "dtype", "gib"), LOGGED)
def test_a_rank_loads_what_engines_log_within_half_a_percent(
    name: str, ranks: int, dtype: str | None, gib: float
) -> None:
    held = rank_weights(load_model(name), ranks, weights_dtype=dtype)[0]
    assert held.total_bytes / GIB == pytest.approx(gib, rel=0.005)


@pytest.mark.parametrize(("name", "gib"), [("Qwen2.5-7B", 5.29), ("Mistral-7B-v0.3", 3.89)])
def test_a_rank_loads_what_engines_log_of_awq_checkpoints(name: str, gib: float) -> None:
    entry = next(entry for entry in document("models")["models"] if entry["name"] == name)
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
    model = model_from_config({**entry["config"], "dtype": "float16", "quantization_config": awq}, name)
    assert rank_weights(model)[0].total_bytes / GIB == pytest.approx(gib, rel=0.004)


@pytest.mark.parametrize(
    "quantised",
    [
        {"quant_method": "gptq", "bits": 4, "group_size": 128},
        {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
    ],
    ids=lambda quantised: quantised["quant_method"],
)
def test_weights_quantised_as_published_are_counted_in_their_format(quantised: dict[str, object]) -> None:
    entry = next(entry for entry in document("models")["models"] if entry["name"] == "Qwen2.5-7B")
    plain = {**entry["config"], "dtype": "float16"}
    held = rank_weights(model_from_config({**plain, "quantization_config": quantised}, "Qwen2.5-7B"))[0].total_bytes
    # the linear layers take 4 bits and their scales, a seventh of the model (embeddings and head) stays in 16 bits
    assert 0.25 < held / rank_weights(model_from_config(plain, "Qwen2.5-7B"))[0].total_bytes < 0.42


def test_the_allocator_keeps_a_rest_of_a_block_up_to_a_mebibyte() -> None:
    sizes = {9 * MIB + 1: 0, 12 * MIB: 0, 13 * MIB: MIB, 13 * MIB - 1: 0, 14 * MIB - 5: 5}
    assert {size: rounding_bytes(size) for size in sizes} == sizes
    assert rounding_bytes(13 * MIB - 1, repacked=True) == MIB + 1


def test_speculative_layers_are_in_the_file_but_not_on_the_rank() -> None:
    model = load_model("DeepSeek-V3")
    held = rank_weights(model, engine_tables=False)[0].total_bytes
    assert 0.975 < held / 688_586_727_753 < 0.985


def test_a_file_without_the_speculative_layers_it_announces_is_loaded_whole(tmp_path: Path) -> None:
    config = {"model_type": "qwen3_next", "num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4}
    config |= {"vocab_size": 128, "num_experts": 4, "mtp_num_hidden_layers": 1, "dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_safetensors(tmp_path / "model.safetensors", {"model.layers.0.x": 5_000})
    assert rank_weights(load_model(str(tmp_path)), engine_tables=False)[0].parameter_bytes == 10_000
    write_safetensors(tmp_path / "model.safetensors", {"model.layers.0.x": 5_000, "mtp.layers.0.x": 500})
    assert rank_weights(load_model(str(tmp_path)), engine_tables=False)[0].parameter_bytes == 10_000


def test_a_head_that_repeats_tied_embeddings_is_left_in_the_file(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 10, "dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_safetensors(tmp_path / "model.safetensors", {"wte.weight": 5_000, "lm_head.weight": 80})
    assert rank_weights(load_model(str(tmp_path)), engine_tables=False)[0].parameter_bytes == 10_000
    (tmp_path / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 10_160}, "weight_map": {"wte.weight": "a", "lm_head.weight": "a"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert rank_weights(load_model(str(tmp_path)), engine_tables=False)[0].parameter_bytes == 10_000


def test_kv_projections_are_copied_and_norms_whole_under_tensor_parallelism() -> None:
    model = load_model("Qwen2.5-7B")  # 4 KV heads
    four, twentyeight = (rank_weights(model, ranks, engine_tables=False)[0].parameter_bytes for ranks in (4, 28))
    assert four * 4 > 15_231_233_024  # norms are on every rank
    copied = 28 * 2 * 128 * (3584 + 1) * 2  # one K and one V head in each of 28 layers, with its bias, in bf16
    split = (15_231_233_024 - 4 * copied) / 28
    assert twentyeight == pytest.approx(split + copied, rel=0.01)


def test_the_vocabulary_is_padded_before_it_is_split() -> None:
    raw = {"model_type": "llama", "vocab_size": 101, "hidden_size": 64, "num_attention_heads": 4, "dtype": "bfloat16"}
    raw |= {"num_hidden_layers": 1, "intermediate_size": 64, "tie_word_embeddings": True}
    model = model_from_config(raw, "odd")
    (embedding,) = [part for part in model.parts if part.name == "embed_tokens"]
    assert embedding.rank_elements(2)[0] == 64 * 64


def test_a_pipelines_stages_hold_all_layers_once_and_the_worst_is_reported() -> None:
    assert [len(span) for span in stages(62, 4)] == [15, 16, 16, 15]
    held = rank_weights(load_model("Gemma-3-27B"), 1, 4, engine_tables=False)
    assert len(held) == 4
    total = sum(stage.parameter_bytes for stage in held)
    tied = 262208 * 5376 * 2  # the tied table is also the last stage's head
    assert total == pytest.approx(54_864_813_280 + tied, rel=1e-9)


def write_safetensors(path: Path, tensors: dict[str, int]) -> None:
    """A file of bf16 tensors of so many elements, zeros."""
    header, offset = {}, 0
    for name, elements in tensors.items():
        header[name] = {"dtype": "BF16", "shape": [elements], "data_offsets": [offset, offset + 2 * elements]}
        offset += 2 * elements
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))


def test_bytes_come_from_the_headers_of_the_files(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"a": 10, "model.layers.0.x": 5, "model.layers.2.mtp": 7})
    found = read_checkpoint(tmp_path, layers=2)
    assert found is not None
    assert (found.tensor_bytes, found.exact, found.unloaded_bytes, found.speculates) == (44, True, 14, True)


def test_the_index_speaks_where_its_files_are_elsewhere(tmp_path: Path) -> None:
    index = {"metadata": {"total_size": 1234}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = read_checkpoint(tmp_path, layers=1)
    assert found is not None
    assert (found.tensor_bytes, found.exact) == (1234, True)


def test_a_file_that_is_no_safetensors_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(BrokenFile, match=r"model\.safetensors"):
        read_checkpoint(tmp_path, layers=1)


def test_a_folder_without_weights_is_estimated_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "dtype": "float16"}))
    held = rank_weights(load_model(str(tmp_path)), engine_tables=False)[0]
    assert (held.parameter_bytes, held.exact) == (2 * 124_439_808, False)
