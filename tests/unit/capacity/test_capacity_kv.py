"""KV cache bytes, against the catalogue's vectors and the published worked numbers."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capacity.catalog import document
from capacity.errors import InvalidInput, UnknownName
from capacity.memory.kv import KvLayout, line_at, session_bytes
from capacity.model.layers import Layer
from capacity.model.model import load_model, model_from_config
from capacity.precision import FORMATS, kv_format

VECTORS = [
    (entry["name"], int(tokens), size, "fp32" if " fp32, decoder" in entry["kv_check"]["convention"] else "bf16")
    for entry in document("models")["models"]
    if "kv_check" in entry
    for tokens, size in entry["kv_check"]["bytes"].items()
]
NAMES = sorted({name for name, *_ in VECTORS})
KV_DTYPES = [row.name for row in FORMATS if row.kv]


def layout(dtype: str = "bf16", **changes: int | bool) -> KvLayout:
    return KvLayout(kv_format(dtype), **{"encoder_tokens": 512, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "tokens", "size", "dtype"), VECTORS)
def test_every_vector_of_the_catalogue_is_met_to_the_byte(name: str, tokens: int, size: int, dtype: str) -> None:
    assert session_bytes(load_model(name).layers, tokens, layout(dtype)) == size


def test_the_catalogue_holds_at_least_35_models_and_100_vectors() -> None:
    assert len(NAMES) >= 35
    assert len(VECTORS) >= 100


@pytest.mark.parametrize(
    ("name", "tokens", "dtype", "slope", "constant"),
    [
        ("Llama-3.1-70B", 131072, "bf16", 327_680, 0),
        ("SmolLM2-1.7B", 8192, "bf16", 196_608, 0),
        ("gpt_bigcode-1.1B", 2048, "bf16", 12_288, 0),
        ("Mistral-7B-v0.1", 32768, "bf16", 0, 512 * 2**20),
        ("DeepSeek-V3", 131072, "bf16", 70_272, 0),
        ("DeepSeek-V2-Lite", 8192, "bf16", 31_104, 0),
        ("DeepSeek-V3.2", 8192, "bf16", 78_324, 0),
        ("DeepSeek-V3.2", 8192, "fp8_ds_mla", 48_068, 0),
        ("Qwen3-Next-80B-A3B", 131072, "bf16", 24_576, 77_266_944),
        ("Nemotron-3-Nano-30B-A3B", 131072, "bf16", 6_144, 49_082_368),
        ("t5-small", 512, "fp32", 24_576, 24_576 * 512),
        ("flan-t5-small", 512, "fp32", 24_576, 24_576 * 512),
    ],
)
def test_a_session_is_a_constant_and_a_slope(name: str, tokens: int, dtype: str, slope: int, constant: int) -> None:
    line = line_at(load_model(name).layers, tokens, layout(dtype))
    assert (line.bytes_per_token, line.constant_bytes) == (Fraction(slope), constant)


@pytest.mark.parametrize("name", NAMES)
def test_the_line_at_a_context_gives_that_context_exactly(name: str) -> None:
    model = load_model(name)
    for tokens in (1, 500, 5000):
        line = line_at(model.layers, tokens, layout())
        assert session_bytes(model.layers, tokens, layout()) == line.constant_bytes + line.bytes_per_token * tokens


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.integers(0, 200_000),
    st.integers(0, 200_000),
    st.sampled_from(KV_DTYPES),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 16, 64]),
)
def test_more_tokens_never_take_fewer_bytes(name: str, one: int, two: int, dtype: str, ranks: int, block: int) -> None:
    layers, kept = load_model(name).layers, layout(dtype, tensor_parallel=ranks, block_size_tokens=block)
    low, high = sorted((one, two))
    assert session_bytes(layers, low, kept) <= session_bytes(layers, high, kept)


def test_fewer_kv_heads_than_ranks_are_copied_and_odd_ones_rounded_up() -> None:
    llama, phi = load_model("Llama-3.1-8B").layers, load_model("Phi-4").layers
    eight = session_bytes(llama, 1000, layout(tensor_parallel=8))
    assert session_bytes(llama, 1000, layout(tensor_parallel=16)) == eight
    assert session_bytes(phi, 1000, layout(tensor_parallel=4)) * 10 == session_bytes(phi, 1000, layout()) * 3


def test_mla_latents_are_whole_on_every_rank() -> None:
    layers = load_model("DeepSeek-V3").layers
    assert session_bytes(layers, 1000, layout(tensor_parallel=8)) == session_bytes(layers, 1000, layout())


def test_mla_is_one_latent_a_token_not_heads_times_width() -> None:
    model = load_model("DeepSeek-V3")
    wrong = 61 * 2 * 128 * 128 * 2
    assert line_at(model.layers, 1000, layout()).bytes_per_token == 61 * 576 * 2 < wrong


def test_recurrent_state_is_split_by_head_and_its_groups_copied() -> None:
    nemotron = load_model("Nemotron-3-Nano-30B-A3B").layers
    one, two = (line_at(nemotron, 10, layout(tensor_parallel=ranks)).constant_bytes for ranks in (1, 2))
    assert one == 2 * two
    sixteen = line_at(nemotron, 10, layout(tensor_parallel=16)).constant_bytes
    # 4 of 64 heads, and 16 copies of a group shared among 16 ranks
    assert sixteen == 23 * (4 * 64 * 128 * 4 + (64 * 64 + 16 * 2 * 128) // 16 * 3 * 2)


def test_scales_of_quantised_caches_are_counted() -> None:
    layers = load_model("Llama-3.1-8B").layers
    fp8, scaled = (line_at(layers, 10, layout(dtype)).bytes_per_token for dtype in ("fp8", "fp8_per_token_head"))
    assert scaled - fp8 == 32 * 2 * 8 * 4
    assert line_at(layers, 10, layout("int4")).bytes_per_token == 32 * 8 * (128 + 8)


def test_an_engine_without_a_hybrid_allocator_pays_for_the_whole_context() -> None:
    layers = load_model("Gemma-3-27B").layers
    naive = session_bytes(layers, 131072, layout(hybrid_allocator=False))
    assert naive == 62 * 2 * 16 * 128 * 2 * 131072
    assert session_bytes(layers, 131072, layout()) == 11_173_625_856


def test_paging_rounds_each_group_up_to_whole_blocks() -> None:
    layers = load_model("gpt-oss-20b").layers
    assert session_bytes(layers, 100, layout(block_size_tokens=64)) == session_bytes(layers, 128, layout())


def test_negative_tokens_and_impossible_layouts_are_refused() -> None:
    with pytest.raises(InvalidInput, match="negative"):
        session_bytes([Layer("full", 1, 1, 1)], -1, layout())
    with pytest.raises(InvalidInput, match="tensor_parallel"):
        layout(tensor_parallel=0)


def test_an_unknown_kv_dtype_is_refused_by_name() -> None:
    with pytest.raises(UnknownName, match="'fp7'"):
        kv_format("fp7")


def test_a_null_window_in_the_file_keeps_the_class_default_out() -> None:
    raw = {"model_type": "mistral", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4}
    raw |= {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 100, "intermediate_size": 128}
    windowed = model_from_config(raw, "windowed").layers[0].window_tokens
    assert windowed == 4096
    assert model_from_config({**raw, "sliding_window": None}, "whole").layers[0].window_tokens is None
