"""The memory plan of a vector service: embedder, index and process in RAM, made before anything is loaded.

rag/planning.py plans the LLM; this plan has no sessions, since a question holds no memory once it is embedded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from capacity import load_hardware
from capacity.errors import CapacityError
from capacity.memory.overheads import PROCESS_BYTES
from capacity.memory.vectors import index_size
from rag.errors import DoesNotFit, InvalidRequest
from rag.planning import embedder_bytes
from rag.retrieval.manifest import read_manifest
from rag.settings import Settings

_USABLE = 0.90  # the rest is for the operating system, as in the LLM's plan
_SMALLER = ("SQfp16", "SQ8", "SQ4")


@dataclass(frozen=True, slots=True)
class RetrievalPlan:
    """Bytes by part, and the bytes that the process may use."""

    embedder: str
    index_factory: str
    vectors: int
    dimension: int
    need_bytes: Mapping[str, int]
    have_bytes: int

    @property
    def need_total_bytes(self) -> int:
        """The sum over the parts."""
        return sum(self.need_bytes.values())

    def to_json(self) -> dict[str, Any]:
        """This plan as a JSON object."""
        return {**asdict(self), "need_total_bytes": self.need_total_bytes}


def make_retrieval_plan(settings: Settings) -> RetrievalPlan:
    """The plan for these settings on this machine.

    Raises DoesNotFit with index types that do fit, InvalidRequest for an unknown index type, ModelRefused or
    IndexRefused where a file is missing.
    """
    index = read_manifest(Path(settings.index), files=())
    machine = load_hardware(settings.hardware or "cpu")
    have_bytes = int((machine.ram_bytes or machine.device.memory_bytes) * _USABLE)
    weights_bytes = embedder_bytes(settings)

    def plan(factory: str) -> RetrievalPlan:
        size = index_size(factory, index.dimension)
        need = {"embedder": weights_bytes, "index": size.total_bytes(index.passages), "runtime": PROCESS_BYTES}
        return RetrievalPlan(index.embedder, factory, index.passages, index.dimension, need, have_bytes)

    try:
        chosen = plan(index.factory)
    except CapacityError as error:
        raise InvalidRequest(str(error), field="INDEX", value=settings.index) from error
    if chosen.need_total_bytes > have_bytes:
        raise DoesNotFit(_refusal(chosen, [plan(factory) for factory in _SMALLER]))
    return chosen


def _refusal(plan: RetrievalPlan, smaller: list[RetrievalPlan]) -> dict[str, Any]:
    need_bytes = plan.need_total_bytes
    fixes = [
        {"flags": f"python -m rag.build_index --factory {other.index_factory}", "effect": f"{need} bytes instead"}
        for other in smaller
        if (need := other.need_total_bytes) <= plan.have_bytes
    ]
    return {
        "message": f"embedder and index need {need_bytes} bytes, and this machine has {plan.have_bytes}",
        "requested": {"vectors": plan.vectors, "dimension": plan.dimension},
        "need_bytes": dict(plan.need_bytes),
        "have_bytes": plan.have_bytes,
        "short_by_bytes": need_bytes - plan.have_bytes,
        "largest_that_fits": {"vectors": _most_vectors(plan)},
        "fixes": fixes,
    }


def _most_vectors(plan: RetrievalPlan) -> int:
    size = index_size(plan.index_factory, plan.dimension)
    free_bytes = plan.have_bytes - plan.need_bytes["embedder"] - plan.need_bytes["runtime"] - size.fixed_bytes
    return max(0, int(free_bytes // size.bytes_per_vector))
