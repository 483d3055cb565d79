"""An artifact and a workload → the Plan that is deployed, made before AWS is asked anything.

The request is the one that the container makes of the same settings when it boots, so both come to one Plan: one device
an engine, one engine an instance, its blocks as the artifact's own plan has them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from capacity import (
    EngineSpec,
    Hardware,
    Model,
    Plan,
    Request,
    Workload,
    check,
    load_hardware,
    load_model,
    make_plan,
    refuse,
)
from capacity.commands import refusal_text
from capacity.errors import CapacityError
from capacity.hardware.nodes import instance_types, this_machine
from capacity.units import GIB, MIB, ceil_div
from deploy.errors import Refused, WrongOption
from deploy.spec.artifact_reader import Artifact

# What the container takes where neither the artifact nor the command says anything.
_CONTEXT, _CONCURRENCY, _DTYPE = 1024, 16, "float32"
_FORMATS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
# Above this an answer from a CPU takes longer than anyone waits, so a GPU is chosen where none is named.
_MOST_CPU_WEIGHTS_BYTES = 2 * GIB
_SERVERLESS_MB = (1024, 2048, 3072, 4096, 5120, 6144)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for; None leaves it to the artifact's settings and the plan. `concurrency` is the endpoint's."""

    context_tokens: int | None = None
    concurrency: int | None = None
    instance_type: str | None = None
    instances: int | None = None


def plan_endpoint(artifact: Artifact, wish: Wish) -> Plan:
    """The Plan on instances: the type named, or the artifact's, or the cheapest of the catalogue that holds it.

    Raises Refused with the fixes where it does not fit, WrongOption where a name or a number is wrong.
    """
    try:
        named = wish.instance_type or artifact.plan.instance_type
        if named is not None:
            return _fitting(_request(artifact, wish, load_hardware(named)), wish.instances)
        best: tuple[tuple[float, int], Plan] | None = None
        for hardware in _candidates(artifact):
            verdict = make_plan(replace_instances(_request(artifact, wish, hardware), wish.instances))
            unknown = 0.0 if hardware.is_cpu else float("inf")  # no CPU type has a price: the smallest is taken
            price = hardware.price.usd_per_hour if hardware.price else unknown
            rank = (price * verdict.plan.instances, (hardware.ram_bytes or 0) * verdict.plan.instances)
            if verdict.fits and (best is None or rank < best[0]):
                best = rank, verdict.plan
        if best is None:
            largest = max(_candidates(artifact), key=lambda hardware: hardware.device.memory_bytes)
            return _fitting(_request(artifact, wish, largest), wish.instances)
        return _fitting(_request(artifact, wish, load_hardware(best[1].hardware)), wish.instances)
    except CapacityError as error:
        raise WrongOption(str(error)) from error


def plan_serverless(artifact: Artifact, wish: Wish) -> tuple[int, Plan]:
    """(memory in MB, the Plan) of the smallest serverless container that holds it. Raises as plan_endpoint does."""
    try:
        for memory_mb in _SERVERLESS_MB:
            hardware = replace(this_machine(memory_mb * MIB), name=f"serverless {memory_mb} MB")
            request = replace_instances(_request(artifact, wish, hardware), 1)
            if check(request).fits:
                return memory_mb, check(request).plan
        raise Refused(refusal_text(refuse(request, check(request))))
    except CapacityError as error:
        raise WrongOption(str(error)) from error


def replace_instances(request: Request, instances: int | None) -> Request:
    """`request` held to a number of instances, or free to choose."""
    return replace(request, engine=replace(request.engine, instances=instances))


def sessions_per_instance(plan: Plan) -> int:
    """Sessions that one instance is set to run at once: its share of the concurrency."""
    return ceil_div(plan.concurrency, plan.instances)


def _fitting(request: Request, instances: int | None) -> Plan:
    verdict = make_plan(replace_instances(request, instances))
    if not verdict.fits:
        raise Refused(refusal_text(refuse(replace_instances(request, instances), verdict)))
    # Again at the number found, with the sequences that each instance's engine is then set to.
    share = sessions_per_instance(verdict.plan)
    engine = replace(request.engine, instances=verdict.plan.instances, max_sequences=share)
    return check(replace(request, engine=engine)).plan


def _request(artifact: Artifact, wish: Wish, hardware: Hardware) -> Request:
    model = load_model(str(artifact.llm))
    settings = artifact.settings
    if "WEIGHTS" in settings:  # what int8 weights spare is held in DTYPE, whatever the file has
        model = replace(model, dtype=settings.get("DTYPE", _DTYPE))
    context = wish.context_tokens or int(settings.get("CONTEXT", _CONTEXT)) or model.max_context_tokens or 2048
    told = settings.get("CONCURRENCY", "auto")
    concurrency = wish.concurrency or (int(told) if told != "auto" else _CONCURRENCY)
    vectors, dimensions, factory = artifact.index()
    workload = Workload(
        context_tokens=context,
        concurrency=concurrency,
        encoder_tokens=0,
        embedder_bytes=artifact.embedder_bytes,
        vectors=vectors,
        dimensions=dimensions,
        index_factory=factory,
    )
    # The container's engine computes on one device, however many an instance has.
    return Request(model, replace(hardware, devices=1), workload, _engine(artifact, hardware, model, concurrency))


def _engine(artifact: Artifact, hardware: Hardware, model: Model, sequences: int) -> EngineSpec:
    """The engine as the container sets it up: as the artifact's own plan has it, made by the container's code.

    That plan may be for the other kind of machine: a GPU then has slots in DTYPE, a CPU needs another plan.
    """
    planned, slots, reserve_bytes = artifact.plan, True, 0
    dtype = _FORMATS[artifact.settings.get("DTYPE", _DTYPE)]
    kv_dtype, weights_dtype = dtype, None if model.quantization or _FORMATS.get(model.dtype) == dtype else dtype
    if _is_cpu(planned) == hardware.is_cpu:
        slots = planned.block_size_tokens == planned.context_tokens
        kv_dtype, weights_dtype = planned.kv_dtype, planned.weights_dtype
        reserve_bytes = planned.need_bytes["reserve"]  # of the model alone, on whatever machine of this kind
    elif hardware.is_cpu:
        raise WrongOption(
            f"the artifact was planned for {planned.hardware}, and {hardware.name} has no GPU",
            f"Make it again: make artifact HARDWARE={hardware.name}.",
        )
    return EngineSpec(
        kv_slots=slots,
        block_size_tokens=16 if slots else planned.block_size_tokens,
        hybrid_allocator=False,
        kv_dtype=kv_dtype,
        weights_dtype=weights_dtype,
        max_batch_tokens=planned.max_batch_tokens,
        max_sequences=sequences,
        reserve_bytes=reserve_bytes,
        tensor_parallel=1,
    )


def _is_cpu(plan: Plan) -> bool:
    """Whether `plan` is for a machine without a GPU. A name that the catalogue does not know is a GPU's."""
    try:
        return load_hardware(plan.hardware).is_cpu
    except CapacityError:
        return False


def _candidates(artifact: Artifact) -> Iterable[Hardware]:
    weights = sum(file.stat().st_size for file in artifact.llm.glob("*.safetensors"))
    wants_gpu = weights > _MOST_CPU_WEIGHTS_BYTES
    # Burstable types stop being able to compute after a while.
    return [
        hardware
        for hardware in instance_types()
        if hardware.is_cpu != wants_gpu and not hardware.name.startswith(("ml.t2.", "ml.t3."))
    ]
