"""The Plan that the container runs by: made from the settings before anything is loaded, held to what loading took.

The same function of the capacity model answers `make deploy`, `serve --check`, the boot and the report, so what was
promised, what is allocated and what requests are counted against are one set of figures.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

from capacity import (
    EngineSpec,
    Hardware,
    Measured,
    Model,
    Plan,
    Request,
    Workload,
    check,
    load_hardware,
    load_model,
    refuse,
)
from capacity.errors import CapacityError
from capacity.hardware.nodes import Device
from capacity.planning.fixes import largest_concurrency
from rag.backends.choice import BackendChoice, choose_backend
from rag.checkpoint import resolve_model
from rag.embedding.sentence_transformer import embedder_directory
from rag.errors import DoesNotFit, InvalidRequest
from rag.retrieval.manifest import read_manifest
from rag.settings import Settings

_log = logging.getLogger(__name__)

_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "u8": "u8"}
# What a session costs: where a deployment was planned with other figures, its number of instances is wrong.
_SESSION_FIGURES = ("context_tokens", "kv_dtype", "weights_dtype", "block_size_tokens", "kv_bytes_per_session")
# OpenVINO's blocks, which hold as many tokens in windowed layers as in the others (rag/backends/openvino_paged.py).
_BLOCK_TOKENS = 32
# What OpenVINO holds beyond weights and KV, as a share of the weights and by layer. Fitted to what
# `python -m benchmarks.paged memory` saw of one model of 30 layers in float32 on AVX2; why it is held is not known.
_HELD_SHARE_OF_WEIGHTS = 0.25
_HELD_BYTES_PER_LAYER = 2 * 2**20
# And its kernels, made anew for each length of a step: what thousands of requests of mixed lengths came to.
_KERNEL_BYTES = 64 * 2**20


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
        _hold_to_deployed(settings.plan, verdict.plan)
    return verdict.plan


def _hold_to_deployed(packed: str, plan: Plan) -> None:
    """Log where this container's plan is another than the one that its instances were chosen by.

    Nothing is refused for it: the plan made here has just been checked against the machine that is really there.
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
    """`plan` again, by the same function, with what loading really took. Raises DoesNotFit where it no longer fits."""
    request = _request(settings, with_retrieval)
    engine = replace(request.engine, measured=measured)
    request = replace(request, engine=engine).with_changes(concurrency=plan.concurrency)
    verdict = check(request)
    if not verdict.fits:
        raise DoesNotFit(refuse(request, verdict).to_json())
    return verdict.plan


def planned_backend(settings: Settings) -> BackendChoice:
    """The backend that the plan for these settings counts on."""
    return choose_backend(settings, _model(settings), on_cpu=_hardware(settings).is_cpu)


def _model(settings: Settings) -> Model:
    model = load_model(str(resolve_model(settings.llm)))
    # What int8 weights spare is held in DTYPE, whatever the file has.
    return replace(model, dtype=settings.dtype) if settings.weights else model


def _request(settings: Settings, with_retrieval: bool) -> Request:
    model, hardware = _model(settings), _hardware(settings)
    paged = choose_backend(settings, model, on_cpu=hardware.is_cpu).name == "openvino"
    context = settings.context or model.max_context_tokens or 2048
    dtype = _DTYPES[settings.dtype]
    workload = Workload(
        context_tokens=context,
        concurrency=settings.sessions,
        encoder_tokens=0,  # an encoder's prompt shares the slot with the answer (torch_t5)
    )
    if with_retrieval:
        index = read_manifest(Path(settings.index), files=())  # its files are verified when they are loaded
        workload = replace(
            workload,
            embedder_bytes=embedder_bytes(settings),
            vectors=index.passages,
            dimensions=index.dimension,
            index_factory=index.factory,
        )
    engine = EngineSpec(
        kv_slots=not paged,
        block_size_tokens=_BLOCK_TOKENS,
        hybrid_allocator=False,
        kv_dtype=_DTYPES[settings.kv_dtype or settings.dtype],
        weights_dtype=settings.weights or (None if model.quantization or model.dtype == settings.dtype else dtype),
        max_batch_tokens=settings.max_batch_tokens,
        max_sequences=settings.sessions,
        instances=1,
        tensor_parallel=1,
    )
    request = Request(model, hardware, workload, engine)
    if not paged:
        return request
    weights_bytes = check(request).plan.need_bytes["weights"]
    held_bytes = round(weights_bytes * _HELD_SHARE_OF_WEIGHTS) + len(model.layers) * _HELD_BYTES_PER_LAYER
    return request.with_changes(reserve_bytes=held_bytes + _KERNEL_BYTES)


def embedder_bytes(settings: Settings) -> int:
    """Bytes of the embedder's weights."""
    files = embedder_directory(settings.embedding_model).rglob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def _hardware(settings: Settings) -> Hardware:
    if settings.hardware:
        return load_hardware(settings.hardware)
    if settings.device == "cpu" or not Path("/dev/nvidiactl").exists():
        return load_hardware("cpu")
    import torch  # noqa: PLC0415 - heavy, and needed only to ask for a card

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
