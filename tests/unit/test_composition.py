"""Loading falls back to torch when the planned backend can't run the model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from rag.backends.openvino_paged import OpenVinoPaged
from rag.backends.torch_slots import TorchSlots
from rag.composition import _load_llm
from rag.errors import BackendRefused
from rag.planning import make_plan
from rag.settings import Settings
from tests.unit.engine.test_generator import save_model
from tests.unit.test_planning import index, settings

pytestmark = pytest.mark.slow

__all__ = ["index"]  # a fixture


def load(chosen: Settings) -> Any:
    return _load_llm(chosen, make_plan(chosen), "cpu", 2, lambda _phase: None)


def test_a_model_that_fails_its_self_test_gets_torch_and_a_plan_for_it(
    index: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As if its graph computed something else. With BACKEND=openvino there is no fallback."""
    chosen = settings(index, save_model(tmp_path))
    monkeypatch.setattr("rag.backends.openvino_paged._TOLERANCE", {"f32": -1.0})
    with caplog.at_level(logging.WARNING):
        used, plan, generator = load(chosen)
    generator.close()
    assert isinstance(generator.engine.backend, TorchSlots)
    assert (used.backend, plan.num_blocks, plan.block_size_tokens) == ("torch", 3, 200)
    assert generator.engine.kv_bytes == plan.kv_bytes
    assert "made again for torch" in caplog.text
    with pytest.raises(BackendRefused, match="test prompt"):
        load(chosen.model_copy(update={"backend": "openvino"}))


def test_a_model_that_openvino_runs_keeps_its_plan(index: Path, tmp_path: Path) -> None:
    chosen = settings(index, save_model(tmp_path))
    used, plan, generator = load(chosen)
    generator.close()
    assert isinstance(generator.engine.backend, OpenVinoPaged)
    assert used == chosen
    assert generator.engine.kv_bytes == plan.kv_bytes
    assert plan.block_size_tokens == generator.engine.backend.block_size
