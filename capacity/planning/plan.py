"""The Plan of a request, and whether it fits. One function decides: `check`.

The deployer turns the Plan into instances, the boot compares it with the real device, the engine allocates its blocks,
admission counts against them, and the report prints them. It is frozen, and JSON keeps all of it.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from capacity.errors import InvalidInput
from capacity.planning.footprint import EXACT, Footprint, MemoryTerm, footprints
from capacity.planning.workload import Request, check_tensor_parallel
from capacity.units import ceil_div

SCHEMA = "capacity.plan/1"
# SageMaker's limit on a value of a container's environment.
LONGEST_VARIABLE = 1024
# More instances than this point to a mistake in the request.
_MOST_INSTANCES = 100_000


@dataclass(frozen=True, slots=True)
class Plan:
    """The figures that deployment, boot, engine and admission use. Bytes are those of the fullest rank.

    `num_blocks` blocks of `block_bytes` and `num_slots` slots of `slot_bytes` make `kv_bytes`, which the engine
    allocates; a session takes `blocks_per_session` blocks and one slot. On a CPU that is what the workload needs, on
    GPUs all that is free. `need_bytes` is for the requested sessions, `have_bytes` what the rank may use.
    """

    model: str
    hardware: str
    instance_type: str | None
    instances: int
    replicas_per_instance: int
    tensor_parallel: int
    pipeline_parallel: int
    context_tokens: int
    concurrency: int
    kv_dtype: str
    weights_dtype: str | None
    block_size_tokens: int
    num_blocks: int
    block_bytes: int
    blocks_per_session: int
    num_slots: int
    slot_bytes: int
    kv_bytes: int
    kv_bytes_per_session: int
    kv_bytes_per_token: float
    kv_constant_bytes: int
    sessions_per_replica: int
    sessions_per_instance: int
    need_bytes: Mapping[str, int]
    need_total_bytes: int
    have_bytes: int
    device_bytes: int
    utilization: float
    max_batch_tokens: int
    max_sequences: int
    hybrid_allocator: bool
    terms: tuple[MemoryTerm, ...]
    schema: str = SCHEMA

    @property
    def max_model_len(self) -> int:
        """The engine's name for the context."""
        return self.context_tokens

    @property
    def engine_arguments(self) -> dict[str, str]:
        """The usual flags of a paged GPU engine."""
        arguments = {
            "tensor-parallel-size": str(self.tensor_parallel),
            "pipeline-parallel-size": str(self.pipeline_parallel),
            "max-model-len": str(self.context_tokens),
            "block-size": str(self.block_size_tokens),
            "kv-cache-dtype": {"bf16": "auto", "fp16": "auto", "fp32": "auto"}.get(self.kv_dtype, self.kv_dtype),
            "gpu-memory-utilization": f"{self.utilization:g}",
            "max-num-seqs": str(min(self.max_sequences, max(1, self.sessions_per_replica))),
            "max-num-batched-tokens": str(self.max_batch_tokens),
        }
        return arguments | ({"quantization": self.weights_dtype} if self.weights_dtype else {})

    def to_json(self) -> dict[str, Any]:
        """This plan as a JSON object; `from_json` is its inverse."""
        return asdict(self) | {"need_bytes": dict(self.need_bytes), "terms": [asdict(term) for term in self.terms]}

    def pack(self) -> str:
        """This plan as printable characters, short enough for an environment variable of a SageMaker container.

        The sources of its terms are left out. Raises InvalidInput where it is longer than such a variable may be.
        """
        plain = self.to_json()
        plain["terms"] = [{"name": term.name, "bytes": term.bytes, "label": term.label} for term in self.terms]
        packed = zlib.compress(json.dumps(plain, separators=(",", ":"), sort_keys=True).encode(), 9)
        text = base64.b64encode(packed).decode("ascii")
        if len(text) > LONGEST_VARIABLE:
            raise InvalidInput("plan", f"{len(text)} characters packed, above the {LONGEST_VARIABLE} of a variable")
        return text

    @classmethod
    def unpack(cls, text: str) -> Plan:
        """The plan that `pack` wrote; raises InvalidInput for anything else."""
        try:
            raw = json.loads(zlib.decompress(base64.b64decode(text, validate=True)))
        except (ValueError, zlib.error) as error:
            raise InvalidInput("plan", f"not a packed plan: {error}") from error
        return cls.from_json(raw)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Plan:
        """The plan that `to_json` wrote; raises InvalidInput for another schema or a field missing or unknown."""
        if not isinstance(raw, Mapping) or raw.get("schema") != SCHEMA:
            schema = raw.get("schema") if isinstance(raw, Mapping) else raw
            raise InvalidInput("plan.schema", f"{schema!r} is not {SCHEMA!r}")
        known = {item.name for item in fields(cls)}
        missing, unknown = known - raw.keys(), raw.keys() - known
        if missing or unknown:
            raise InvalidInput("plan", f"fields missing: {sorted(missing)}, unknown: {sorted(unknown)}")
        try:
            return cls(**{**raw, "terms": tuple(MemoryTerm(**term) for term in raw["terms"])})
        except TypeError as error:
            raise InvalidInput("plan.terms", str(error)) from error


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request fits on a number of instances, its plan, and the bytes short in `pool` (device or host)."""

    fits: bool
    plan: Plan
    short_by_bytes: int
    pool: str = "device"


def check(request: Request) -> Verdict:
    """Whether `request` fits on `engine.instances` instances (1 where none are given), by the fullest rank.

    With no tensor parallelism given, the smallest that fits is taken, else the one that comes closest. Monotone:
    less context, fewer sessions or more instances never turn a fit into a misfit.
    """
    best: Verdict | None = None
    for ranks in tensor_parallel_choices(request):
        verdict = _check_at(request, ranks, request.engine.instances or 1)
        if verdict.fits:
            return verdict
        if best is None or verdict.short_by_bytes < best.short_by_bytes:
            best = verdict
    if best is None:
        raise InvalidInput("tensor_parallel", f"no count divides the heads of {request.model.name} on these devices")
    return best


def make_plan(request: Request) -> Verdict:
    """The smallest number of instances on which the workload fits, at the tensor parallelism that needs fewest.

    Where not even one session fits, the verdict is that of one instance. With `engine.instances` set this is `check`.
    """
    if request.engine.instances is not None:
        return check(request)
    best: Verdict | None = None
    for ranks in tensor_parallel_choices(request):
        single = _check_at(request, ranks, 1)
        each = single.plan.sessions_per_instance
        count = min(ceil_div(request.workload.concurrency, each), _MOST_INSTANCES) if each else 1
        verdict = _check_at(request, ranks, count) if count > 1 else single
        if best is None or _rank(verdict) < _rank(best):
            best = verdict
    if best is None:
        raise InvalidInput("tensor_parallel", f"no count divides the heads of {request.model.name} on these devices")
    return best


def _rank(verdict: Verdict) -> tuple[bool, int, int]:
    return (not verdict.fits, verdict.plan.instances if verdict.fits else 0, verdict.short_by_bytes)


def tensor_parallel_choices(request: Request) -> list[int]:
    """The tensor parallelism given, or every power of two (and the whole node) that divides heads and devices."""
    given, pipeline = request.engine.tensor_parallel, request.engine.pipeline_parallel
    if given is not None:
        check_tensor_parallel(request.model, given)
        return [given]
    if request.hardware.is_cpu:
        return [1]
    most = request.hardware.devices // pipeline
    counts = sorted({2**power for power in range(11)} | {most})
    return [count for count in counts if count <= most and request.model.attention_heads % count == 0]


def _check_at(request: Request, ranks: int, instances: int) -> Verdict:
    """The verdict at a tensor parallelism and a number of instances."""
    stages = footprints(request, ranks)
    worst = min(stages, key=lambda stage: (stage.sessions, stage.pool_bytes))
    replicas = request.hardware.devices // (ranks * request.engine.pipeline_parallel)
    sessions = ceil_div(request.workload.concurrency, instances * replicas)
    short = max(0, *(stage.need_bytes(sessions) - stage.have_bytes for stage in stages))
    host_short = host_short_bytes(request)
    fits = not short and not host_short
    plan = _plan_of(request, worst, ranks, instances, replicas, sessions)
    pool = "device" if short or not host_short else "host"
    return Verdict(fits, plan, short or host_short, pool)


def host_short_bytes(request: Request) -> int:
    """Bytes that the node's main memory lacks for a vector index beside GPUs; 0 where it fits or nothing is known."""
    hardware = request.hardware
    if hardware.is_cpu or hardware.ram_bytes is None:
        return 0
    return max(0, request.workload.index_bytes - int(hardware.ram_bytes * request.engine.utilization))


def _plan_of(request: Request, worst: Footprint, ranks: int, instances: int, replicas: int, sessions: int) -> Plan:
    kv, hardware = worst.kv, request.hardware
    slots = sessions if hardware.is_cpu else max(worst.sessions, 0)
    blocks = slots * kv.blocks_per_session
    if not hardware.is_cpu and kv.block_bytes and not kv.slot_bytes:
        blocks = max(0, worst.pool_bytes // kv.block_bytes)  # no slots to count: every free block is one more
    kv_bytes = blocks * kv.block_bytes + slots * kv.slot_bytes
    kv_term = MemoryTerm(
        "kv", sessions * kv.session_bytes + kv.in_flight_bytes, EXACT, f"{sessions} sessions of the full context"
    )
    host = 0 if hardware.is_cpu else request.workload.index_bytes
    terms = (
        *worst.fixed,
        kv_term,
        *((MemoryTerm("index (main memory)", host, EXACT, "beside the devices"),) if host else ()),
    )
    need = _need_by_name(worst, kv_term.bytes)
    return Plan(
        model=request.model.name,
        hardware=hardware.name,
        instance_type=hardware.name if hardware.kind == "instance" else None,
        instances=instances,
        replicas_per_instance=replicas,
        tensor_parallel=ranks,
        pipeline_parallel=request.engine.pipeline_parallel,
        context_tokens=request.workload.context_tokens,
        concurrency=request.workload.concurrency,
        kv_dtype=request.kv_dtype,
        weights_dtype=request.engine.weights_dtype,
        block_size_tokens=kv.block_size_tokens,
        num_blocks=blocks,
        block_bytes=kv.block_bytes,
        blocks_per_session=kv.blocks_per_session,
        num_slots=slots,
        slot_bytes=kv.slot_bytes,
        kv_bytes=kv_bytes,
        kv_bytes_per_session=kv.session_bytes,
        kv_bytes_per_token=float(kv.line.bytes_per_token),
        kv_constant_bytes=kv.line.constant_bytes,
        sessions_per_replica=worst.sessions,
        sessions_per_instance=worst.sessions * replicas,
        need_bytes=need,
        need_total_bytes=sum(need.values()),
        have_bytes=worst.have_bytes,
        device_bytes=hardware.device.memory_bytes,
        utilization=request.engine.utilization,
        max_batch_tokens=request.batch_tokens,
        max_sequences=request.sequences,
        hybrid_allocator=request.engine.hybrid_allocator,
        terms=terms,
    )


def _need_by_name(worst: Footprint, kv_bytes: int) -> dict[str, int]:
    """Bytes under the six names of a plan; workspace is activation, graphs, runtime and collectives."""
    by_name = {term.name: term.bytes for term in worst.fixed}
    workspace = sum(by_name.get(name, 0) for name in ("activation", "graphs", "runtime", "collectives"))
    return {
        "weights": by_name.get("weights", 0),
        "embedder": by_name.get("embedder", 0),
        "index": by_name.get("index", 0),
        "kv": kv_bytes,
        "workspace": workspace,
        "reserve": by_name.get("reserve", 0),
    }
