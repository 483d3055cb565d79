"""The Plan to deploy, made from an artifact and the requested endpoint before any call to AWS.

The function that builds the container's request at boot builds this one (capacity/planning/container_request.py): both
get the same Plan: one engine an instance, one device an engine, KV blocks as in the artifact's own plan.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from capacity import Hardware, Plan, Request, check, load_hardware, load_model, make_plan, refuse
from capacity.commands import refusal_text
from capacity.errors import CapacityError
from capacity.hardware.nodes import instance_types, this_machine
from capacity.planning.container_request import container_request
from capacity.units import GIB, MIB, ceil_div
from deploy.errors import Refused, WrongOption
from deploy.spec.artifact_reader import Artifact

# The container's defaults (rag/settings.py), where neither the artifact nor the command sets a value.
_CONTEXT, _CONCURRENCY, _DTYPE = 1024, 16, "float32"
# Above this a CPU is too slow for interactive answers, so a GPU is chosen where no type is named.
_MOST_CPU_WEIGHTS_BYTES = 2 * GIB
_SERVERLESS_MB = (1024, 2048, 3072, 4096, 5120, 6144)


@dataclass(frozen=True, slots=True)
class RequestedEndpoint:
    """The command's options; None leaves the choice to the artifact's settings and the plan. `concurrency` is the
    whole endpoint's.
    """

    context_tokens: int | None = None
    concurrency: int | None = None
    instance_type: str | None = None
    instances: int | None = None


def plan_endpoint(artifact: Artifact, requested: RequestedEndpoint) -> Plan:
    """The Plan on instances of the type named, else the artifact's, else the cheapest of the catalogue that fits.

    Raises Refused with the fixes where it does not fit, WrongOption where a name or a number is wrong.
    """
    try:
        named = requested.instance_type or artifact.plan.instance_type
        if named is not None:
            return _fitting(_request(artifact, requested, load_hardware(named)), requested.instances)
        best: tuple[tuple[float, int], Plan] | None = None
        for hardware in _candidates(artifact):
            verdict = make_plan(_request(artifact, requested, hardware).with_changes(instances=requested.instances))
            unknown = 0.0 if hardware.is_cpu else float("inf")  # no CPU type has a price: the smallest is taken
            price = hardware.price.usd_per_hour if hardware.price else unknown
            rank = (price * verdict.plan.instances, (hardware.ram_bytes or 0) * verdict.plan.instances)
            if verdict.fits and (best is None or rank < best[0]):
                best = rank, verdict.plan
        if best is None:
            largest = max(_candidates(artifact), key=lambda hardware: hardware.device.memory_bytes)
            return _fitting(_request(artifact, requested, largest), requested.instances)
        return _fitting(_request(artifact, requested, load_hardware(best[1].hardware)), requested.instances)
    except CapacityError as error:
        raise WrongOption(str(error)) from error


def plan_serverless(artifact: Artifact, requested: RequestedEndpoint) -> tuple[int, Plan]:
    """(memory in MB, the Plan) of the smallest serverless container that fits. Raises as plan_endpoint does."""
    try:
        for memory_mb in _SERVERLESS_MB:
            hardware = replace(this_machine(memory_mb * MIB), name=f"serverless {memory_mb} MB")
            request = _request(artifact, requested, hardware).with_changes(instances=1)
            verdict = check(request)
            if verdict.fits:
                return memory_mb, verdict.plan
        raise Refused(refusal_text(refuse(request, verdict)))
    except CapacityError as error:
        raise WrongOption(str(error)) from error


def sessions_per_instance(plan: Plan) -> int:
    """Sessions that one instance is set to run at once: its share of the concurrency."""
    return ceil_div(plan.concurrency, plan.instances)


def _fitting(request: Request, instances: int | None) -> Plan:
    request = request.with_changes(instances=instances)
    verdict = make_plan(request)
    if not verdict.fits:
        raise Refused(refusal_text(refuse(request, verdict)))
    # Checked again at that number of instances, with the sequences that each instance's engine is then set to.
    plan = verdict.plan
    return check(request.with_changes(instances=plan.instances, max_sequences=sessions_per_instance(plan))).plan


def _request(artifact: Artifact, requested: RequestedEndpoint, hardware: Hardware) -> Request:
    """The request that the container makes when it boots with this artifact on one instance of this hardware."""
    planned, settings = artifact.plan, artifact.settings
    # WEIGHTS, KV_DTYPE and blocks are OpenVINO's, which runs on CPUs only: valid for the kind of machine planned for.
    same_kind = _is_cpu(planned) == hardware.is_cpu
    if hardware.is_cpu and not same_kind:
        raise WrongOption(
            f"the artifact was planned for {planned.hardware}, and {hardware.name} has no GPU",
            f"Make it again: make artifact HARDWARE={hardware.name}.",
        )
    paged = same_kind and planned.block_size_tokens != planned.context_tokens
    sessions = settings.get("CONCURRENCY", "auto")
    vectors, dimensions, factory = artifact.index()
    return container_request(
        load_model(str(artifact.llm)),
        hardware,
        context_tokens=requested.context_tokens or int(settings.get("CONTEXT", _CONTEXT)),
        concurrency=requested.concurrency or (_CONCURRENCY if sessions == "auto" else int(sessions)),
        max_batch_tokens=planned.max_batch_tokens,
        dtype=settings.get("DTYPE", _DTYPE),
        kv_dtype=settings.get("KV_DTYPE") if same_kind else None,
        weights=settings.get("WEIGHTS") if same_kind else None,
        block_size_tokens=planned.block_size_tokens if paged else None,
    ).with_changes(
        embedder_bytes=artifact.embedder_bytes, vectors=vectors, dimensions=dimensions, index_factory=factory
    )


def _is_cpu(plan: Plan) -> bool:
    """Whether `plan` is for a machine without a GPU. A name outside the catalogue is a GPU's, as CUDA reports it."""
    try:
        return load_hardware(plan.hardware).is_cpu
    except CapacityError:
        return False


def _candidates(artifact: Artifact) -> Iterable[Hardware]:
    weights = sum(file.stat().st_size for file in artifact.llm.glob("*.safetensors"))
    wants_gpu = weights > _MOST_CPU_WEIGHTS_BYTES
    # Burstable types throttle the CPU once their credits are used up.
    return [
        hardware
        for hardware in instance_types()
        if hardware.is_cpu != wants_gpu and not hardware.name.startswith(("ml.t2.", "ml.t3."))
    ]
