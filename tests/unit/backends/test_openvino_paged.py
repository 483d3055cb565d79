"""The OpenVINO backend alone: int8 weights, a u8 cache, copied blocks, refused models."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config

from rag.backends.base import Segment
from rag.backends.choice import BLOCK_TOKENS
from rag.backends.int8_linear import Int8Linear, quantize
from rag.backends.mapped_weights import float_on_disk
from rag.backends.openvino_paged import OpenVinoPaged
from rag.backends.self_test import difference
from rag.errors import BackendRefused
from tests.shapes import random_model

pytestmark = pytest.mark.slow


def paged(model: Any, num_blocks: int = 8, **options: Any) -> OpenVinoPaged:
    backend = OpenVinoPaged(model, max_model_len=128, threads=2, **options)
    backend.allocate(num_blocks)
    return backend


def own_logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.tensor([ids])).logits[0, -1]
    return logits


IDS = [(37 * position) % 290 + 3 for position in range(100)]


def test_int8_weights_stay_int8_and_compute_what_the_rounded_model_computes() -> None:
    model = random_model("llama")
    exact = own_logits(model, IDS)
    quantize(model)
    rounded = own_logits(model, IDS)
    assert isinstance(model.model.layers[0].mlp.up_proj, Int8Linear)
    assert not isinstance(model.lm_head, Int8Linear)
    backend = paged(model)
    assert backend.weights_bytes < 0.5 * 4 * random_model("llama").num_parameters()
    logits = backend.step([Segment(IDS, 0, [3, 1, 0, 2])])[0]
    assert difference(logits, rounded) < 1e-4
    assert 1e-3 < difference(logits, exact) < 0.3


def test_logits_with_a_u8_cache_are_close_but_not_equal() -> None:
    model = random_model("llama")
    expected = own_logits(model, IDS)
    backend = paged(model, kv_type="u8")
    backend.step([Segment(IDS[:70], 0, [3, 1, 0, 2])])
    logits = backend.step([Segment(IDS[70:], 70, [3, 1, 0, 2])])[0]
    assert 1e-4 < difference(logits, expected) < 0.3


def test_a_copied_block_serves_another_sequence() -> None:
    model = random_model("mistral")
    expected = own_logits(model, IDS[:60])
    backend = paged(model)
    backend.step([Segment(IDS[:50], 0, [0, 1])])
    backend.copy(1, 5, 50 - BLOCK_TOKENS)
    assert difference(backend.step([Segment(IDS[50:60], 50, [0, 5])])[0], expected) < 1e-4


def test_capped_attention_scores_are_refused_by_name() -> None:
    config = Gemma2Config(
        vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    from_config: Any = AutoModelForCausalLM.from_config
    with pytest.raises(BackendRefused, match="attn_logit_softcapping"):
        OpenVinoPaged(from_config(config), max_model_len=128, threads=2)


def test_a_graph_that_computes_something_else_is_refused_at_load() -> None:
    backend = OpenVinoPaged(random_model("llama"), max_model_len=512, threads=2)
    backend._expected = backend._expected + torch.tensor([[0.0], [1.0]]) * torch.linspace(
        0, 1, 300
    )  # as from a model with wrong positions in long prompts
    with pytest.raises(BackendRefused, match="long test prompt"):
        backend.allocate(16)


def test_half_precision_weights_are_moved_to_a_file_as_float32() -> None:
    model = random_model("llama").to(torch.bfloat16)
    expected = own_logits(model.float(), IDS)
    model = model.to(torch.bfloat16)
    float_on_disk(model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(own_logits(model, IDS), expected) or difference(own_logits(model, IDS), expected) < 0.1
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8")
    start = model.model.layers[0].mlp.up_proj.weight.data_ptr()
    spans = [line.split() for line in mapped.splitlines()]
    assert any(
        int(span[0].split("-")[0], 16) <= start < int(span[0].split("-")[1], 16) and span[4] != "0" for span in spans
    )


def test_other_threads_run_while_a_step_computes() -> None:
    """The GIL is released: a thread that only counts goes on counting."""
    backend = paged(random_model("llama"), num_blocks=128)
    segments = [Segment(IDS, 0, list(range(4 * index, 4 * index + 4))) for index in range(32)]
    backend.step(segments)
    stop, ticks = threading.Event(), [time.perf_counter()]

    def tick() -> None:
        while not stop.wait(0.001):
            ticks.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    began = time.perf_counter()
    for _ in range(3):
        backend.step(segments)
    took = time.perf_counter() - began
    stop.set()
    thread.join()
    assert len([tick for tick in ticks if began < tick < began + took]) >= min(3, took / 0.05)


def test_openvino_sends_no_telemetry() -> None:
    code = "import rag, openvino, sys; print(sys.modules.get('openvino_telemetry'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "None"
