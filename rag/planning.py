"""The container's Plan: made from the settings before anything is loaded, and checked again with what loading took.

`make deploy`, `serve --check`, the boot and the report all ask the same function of the capacity model, so the deployed
figures, the allocated memory and the admission limits are one set of figures.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from capacity import Hardware, Measured, Plan, Request, check, load_hardware, load_model, refuse
from capacity.errors import CapacityError
from capacity.hardware.nodes import Device
from capacity.planning.container_request import container_request
from capacity.planning.fixes import largest_concurrency
from rag.backends.choice import BackendChoice, choose_backend
from rag.checkpoint import resolve_model
from rag.embedding.sentence_transformer import embedder_directory
from rag.errors import DoesNotFit, InvalidRequest
from rag.retrieval.manifest import read_manifest
from rag.settings import Settings

_log = logging.getLogger(__name__)

# What a session takes: where a deployment was planned with other figures, its number of instances is wrong.
_SESSION_FIGURES = ("context_tokens", "kv_dtype", "weights_dtype", "block_size_tokens", "kv_bytes_per_session")


def make_plan(settings: Settings, *, with_retrieval: bool = True) -> Plan:
    """The plan for these settings on this machine, or on HARDWARE where it is set; nothing is loaded for it.

    Without `with_retrieval` embedder and index are another process's (rag/remote/retrieval_plan.py).
    CONCURRENCY=auto takes the most sessions that fit. Raises DoesNotFit with the whole refusal, InvalidRequest for
    settings that contradict the model, ModelRefused or IndexRefused where a file is missing.
    """
    try:
        request = _request(settings, with_retrieval)
        if settings.concurrency is None:
            most = largest_concurrency(request)
            _log.info("CONCURRENCY=auto: %d sessions of %d tokens fit", most, request.workload.context_tokens)
            request = request.with_changes(concurrency=max(1, most), max_sequences=max(1, most))
        verdict = check(request)
        if not verdict.fits:
            raise DoesNotFit(refuse(request, verdict).to_json())
    except CapacityError as error:
        raise InvalidRequest(str(error), field=getattr(error, "field", "LLM")) from error
    if settings.plan and with_retrieval:
        _compare_with_deployed(settings.plan, verdict.plan)
    return verdict.plan


def _compare_with_deployed(packed: str, plan: Plan) -> None:
    """Log the differences between this container's plan and the one that its instances were chosen by.

    They are no reason to refuse: the plan made here has just been checked against the real machine.
    """
    try:
        deployed = Plan.unpack(packed)
    except CapacityError as error:
        raise InvalidRequest(str(error), field="PLAN", remedy="unset PLAN, or deploy again") from error
    differing = {
        name: {"deployed": getattr(deployed, name), "here": getattr(plan, name)}
        for name in _SESSION_FIGURES
        if getattr(deployed, name) != getattr(plan, name)
    }
    if differing:
        _log.warning(json.dumps({"event": "plan_differs", **differing}))


def recheck(settings: Settings, plan: Plan, measured: Measured, *, with_retrieval: bool = True) -> Plan:
    """`plan` again, with what loading measured. Raises DoesNotFit where it no longer fits."""
    request = _request(settings, with_retrieval).with_changes(measured=measured, concurrency=plan.concurrency)
    verdict = check(request)
    if not verdict.fits:
        raise DoesNotFit(refuse(request, verdict).to_json())
    return verdict.plan


def planned_backend(settings: Settings) -> BackendChoice:
    """The backend that the plan for these settings counts on."""
    model = load_model(str(resolve_model(settings.llm)))
    return choose_backend(settings, model, on_cpu=_hardware(settings).is_cpu)


def _request(settings: Settings, with_retrieval: bool) -> Request:
    model, hardware = load_model(str(resolve_model(settings.llm))), _hardware(settings)
    request = container_request(
        model,
        hardware,
        context_tokens=settings.context,
        concurrency=settings.sessions,
        max_batch_tokens=settings.max_batch_tokens,
        dtype=settings.dtype,
        kv_dtype=settings.kv_dtype,
        weights=settings.weights,
        block_size_tokens=choose_backend(settings, model, on_cpu=hardware.is_cpu).block_size_tokens,
    )
    if not with_retrieval:
        return request
    index = read_manifest(Path(settings.index), files=())  # its files are verified when they are loaded
    return request.with_changes(
        embedder_bytes=embedder_bytes(settings),
        vectors=index.passages,
        dimensions=index.dimension,
        index_factory=index.factory,
    )


def embedder_bytes(settings: Settings) -> int:
    """Bytes of the embedder's weights."""
    files = embedder_directory(settings.embedding_model).rglob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def _hardware(settings: Settings) -> Hardware:
    if settings.hardware:
        return load_hardware(settings.hardware)
    if settings.device == "cpu" or not Path("/dev/nvidiactl").exists():
        return load_hardware("cpu")
    import torch  # noqa: PLC0415 - heavy, and needed only to find the GPU

    if not torch.cuda.is_available():
        return load_hardware("cpu")
    found = torch.cuda.get_device_properties(0 if settings.device == "auto" else settings.device)
    card = Device(
        name=found.name,
        kind="gpu",
        memory_bytes=found.total_memory,
        marketing_bytes=found.total_memory,
        bandwidth_bytes_per_s=None,
        peak_flops={},
        compute_capability=found.major + found.minor / 10,
        source="the CUDA driver",
        confidence="read",
    )
    machine = load_hardware("cpu")
    return Hardware(found.name, "gpu", card, 1, machine.ram_bytes, card.source, card.confidence)
