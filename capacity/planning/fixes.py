"""Changes that make a refused request fit. Each is applied to the request and checked before it is offered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from capacity.errors import CapacityError
from capacity.hardware.nodes import Hardware, instance_types, server_types, this_machine
from capacity.planning.plan import check, tensor_parallel_choices
from capacity.planning.workload import Request
from capacity.precision import element_bytes, kv_format, minimum_compute_capability, weight_format
from capacity.units import GIB, ceil_div, largest

# KV and weight formats to offer, the smallest loss of quality first.
_KV_LADDER = ("bf16", "fp8", "int8", "int4")
_WEIGHT_LADDER = ("bf16", "fp8", "int8", "int4")
_MOST_INSTANCES = 1024
# Fixes that change only the engine come first, then more or other machines, then a smaller workload.
_ORDER = (
    "tensor_parallel",
    "kv_dtype",
    "weights_dtype",
    "combined",
    "instances",
    "memory",
    "hardware",
    "context",
    "concurrency",
)


@dataclass(frozen=True, slots=True)
class Fix:
    """A change that may help: `changes` to the request (fields of its workload, engine, or hardware) and their `flags`.

    `effect` says what it gives or costs. `verified` is true of every fix that `fixes_for` returns.
    """

    kind: str
    changes: dict[str, Any] = field(compare=False)
    flags: str
    effect: str
    verified: bool = False

    def to_json(self) -> dict[str, Any]:
        """The fix as a JSON object; hardware by its name."""
        changes = {key: value.name if isinstance(value, Hardware) else value for key, value in self.changes.items()}
        return {
            "kind": self.kind,
            "changes": changes,
            "flags": self.flags,
            "effect": self.effect,
            "verified": self.verified,
        }


def apply_fix(request: Request, fix: Fix) -> Request:
    """The request with the fix applied."""
    return request.with_changes(**fix.changes)


def largest_context(request: Request) -> int:
    """The longest context that fits at the request's concurrency; 0 where none does."""
    return largest(request.workload.context_tokens, lambda tokens: _fits(request, **_shorter(request, tokens)))


def largest_concurrency(request: Request) -> int:
    """The most sessions that fit at the request's context; 0 where none does."""
    return largest(request.workload.concurrency, lambda sessions: _fits(request, concurrency=sessions))


def _shorter(request: Request, tokens: int) -> dict[str, Any]:
    """Changes for a shorter context; typical input and output that no longer fit in it are shortened in proportion."""
    load = request.workload
    changes: dict[str, Any] = {"context_tokens": tokens}
    if (load.input_tokens or 0) + (load.output_tokens or 0) > tokens:
        given = (load.input_tokens or 0) + (load.output_tokens or 0)
        for name in ("input_tokens", "output_tokens"):
            value = getattr(load, name)
            changes[name] = max(1, value * tokens // given) if value else None
        if tokens < 2:
            changes |= {"input_tokens": None, "output_tokens": None}
    return changes


def _fits(request: Request, **changes: Any) -> bool:
    """Whether the changed request is a valid one and fits."""
    try:
        return check(request.with_changes(**changes)).fits
    except CapacityError:
        return False


def fixes_for(request: Request) -> list[Fix]:
    """Every single fix that works, best first; where none does, pairs of them that do."""
    found = [_verified(request, fix) for candidates in _CANDIDATES for fix in candidates(request)]
    fixes = [fix for fix in found if fix is not None]
    if not any(fix.kind not in ("context", "concurrency") for fix in fixes):
        fixes += [fix for fix in (_verified(request, pair) for pair in _pairs(request)) if fix is not None][:1]
    return sorted(fixes, key=_rank)


def _rank(fix: Fix) -> float:
    """Place in the order; a 4-bit cache costs quality and few engines have one, so it comes after other machines."""
    if fix.changes.get("kv_dtype") == "int4":
        return _ORDER.index("hardware") + 0.5
    return _ORDER.index(fix.kind)


def _verified(request: Request, fix: Fix) -> Fix | None:
    if not _fits(request, **fix.changes):
        return None
    return Fix(fix.kind, fix.changes, fix.flags, fix.effect, verified=True)


def _tensor_parallel(request: Request) -> Iterator[Fix]:
    given = request.engine.tensor_parallel
    if given is None:
        return  # `check` has tried all of them
    most = request.hardware.devices // request.engine.pipeline_parallel
    for ranks in (2**power for power in range(11)):
        if ranks <= most and ranks != given and _fits(request, tensor_parallel=ranks):
            yield Fix(
                "tensor_parallel", {"tensor_parallel": ranks}, f"--tensor-parallel {ranks}", f"{ranks} ranks a replica"
            )
            return


def _kv_dtype(request: Request) -> Iterator[Fix]:
    now = kv_format(request.kv_dtype).element_bytes
    for name in _KV_LADDER:
        smaller = kv_format(name).element_bytes < now
        if smaller and _supports(request.hardware, name) and _fits(request, kv_dtype=name):
            yield Fix("kv_dtype", {"kv_dtype": name}, f"--kv-dtype {name}", f"KV from {request.kv_dtype} to {name}")
            return


def _weights_dtype(request: Request) -> Iterator[Fix]:
    weights = request.engine.weights_dtype
    if weights:
        now = weight_format(weights).bytes_per_parameter
    elif request.model.quantization:
        now = request.model.quantization.weights.bytes_per_parameter
    else:
        now = element_bytes(request.model.dtype)
    for name in _WEIGHT_LADDER:
        smaller = weight_format(name).bytes_per_parameter < now
        if smaller and _supports(request.hardware, name) and _fits(request, weights_dtype=name):
            yield Fix(
                "weights_dtype", {"weights_dtype": name}, f"--weights-dtype {name}", f"weights requantised to {name}"
            )
            return


def _both_dtypes(request: Request) -> Iterator[Fix]:
    """KV and weights at 8 bits together, where neither alone (or only something coarser) does it."""
    for name in ("fp8", "int8"):
        alone = [{"kv_dtype": name}, {"weights_dtype": name}]
        if not _supports(request.hardware, name) or any(_fits(request, **changes) for changes in alone):
            continue
        smaller = kv_format(name).element_bytes < kv_format(request.kv_dtype).element_bytes
        if smaller and not request.engine.weights_dtype and request.model.quantization is None:
            flags = f"--kv-dtype {name} --weights-dtype {name}"
            changes = {"kv_dtype": name, "weights_dtype": name}
            yield Fix("combined", changes, flags, f"KV and weights both in {name}")
            return


def _supports(hardware: Hardware, name: str) -> bool:
    """Whether the device has arithmetic for the format. An unknown compute capability counts as enough."""
    needed, capability = minimum_compute_capability(name), hardware.device.compute_capability
    return not needed or (not hardware.is_cpu and (capability is None or capability >= needed))


def _instances(request: Request) -> Iterator[Fix]:
    now = request.engine.instances or 1
    single = (request.with_changes(tensor_parallel=ranks, instances=1) for ranks in tensor_parallel_choices(request))
    each = max((check(one).plan.sessions_per_instance for one in single), default=0)
    if each:
        count = ceil_div(request.workload.concurrency, each)
        if now < count <= _MOST_INSTANCES:
            yield Fix(
                "instances", {"instances": count}, f"--instances {count}", f"{count} instances of {each} sessions each"
            )


def _memory(request: Request) -> Iterator[Fix]:
    """A container with more memory, for a request on this machine."""
    if request.hardware.kind != "cpu":
        return
    verdict = check(request)
    gib = ceil_div(int(verdict.plan.need_total_bytes / request.engine.utilization) + 1, GIB)
    yield Fix(
        "memory",
        {"hardware": this_machine(gib * GIB)},
        f"--hardware cpu --memory-gib {gib}",
        f"a container with {gib} GiB of memory",
    )


def _hardware(request: Request) -> Iterator[Fix]:
    """The cheapest instance type and the smallest server on which it fits, each at its own best tensor parallelism."""
    now = request.hardware
    pools = {"server": [server_types()], "custom": [server_types(), instance_types()], "gpu": [instance_types()]}
    for pool in pools.get(now.kind, [instance_types()]):
        for other in sorted(pool, key=_cost):
            if other.name == now.name or (other.is_cpu and not now.is_cpu):
                continue
            if other.memory_bytes < now.memory_bytes and other.is_cpu == now.is_cpu and other.kind == now.kind:
                continue
            changes = {"hardware": other, "tensor_parallel": None}
            if _fits(request, **changes):
                yield Fix("hardware", changes, f"--hardware {_quoted(other.name)}", _describe(other))
                break


def _cost(hardware: Hardware) -> tuple[bool, float, int]:
    """Known prices first and lowest first, then by device memory."""
    return (hardware.price is None, hardware.price.usd_per_hour if hardware.price else 0.0, hardware.memory_bytes)


def _describe(hardware: Hardware) -> str:
    what = (
        f"{hardware.devices} × {hardware.device.name}"
        if not hardware.is_cpu
        else f"{hardware.memory_bytes / GIB:.0f} GiB"
    )
    return what + (f", {hardware.price.usd_per_hour:.2f} USD/h" if hardware.price else "")


def _quoted(name: str) -> str:
    return f"'{name}'" if " " in name else name


def _context(request: Request) -> Iterator[Fix]:
    tokens = largest_context(request)
    if tokens:
        whole = tokens - tokens % request.engine.block_size_tokens or tokens
        yield Fix("context", _shorter(request, whole), f"--context {whole}", f"at most {whole} tokens a session")


def _concurrency(request: Request) -> Iterator[Fix]:
    sessions = largest_concurrency(request)
    if sessions:
        yield Fix(
            "concurrency",
            {"concurrency": sessions},
            f"--concurrency {sessions}",
            f"at most {sessions} sessions at once",
        )


def _pairs(request: Request) -> Iterator[Fix]:
    """Two changes together: smaller KV or weights, with more instances or another machine."""
    smaller = [{"kv_dtype": name} for name in _KV_LADDER[1:]] + [{"weights_dtype": name} for name in _WEIGHT_LADDER[1:]]
    smaller += [{"kv_dtype": "fp8", "weights_dtype": "fp8"}, {"kv_dtype": "int4", "weights_dtype": "int4"}, {}]
    machines = [request.hardware]
    if not request.hardware.is_cpu:
        machines += sorted((*instance_types(), *server_types()), key=lambda other: other.memory_bytes)[-4:]
    for machine in machines:
        for change in smaller:
            if not all(_supports(machine, name) for name in change.values()):
                continue
            base = {**change, "hardware": machine, "tensor_parallel": None}
            try:
                each = check(request.with_changes(**base, instances=1)).plan.sessions_per_instance
            except CapacityError:
                continue
            count = max(request.engine.instances or 1, ceil_div(request.workload.concurrency, each)) if each else 0
            if 0 < count <= _MOST_INSTANCES:
                flags = [f"--{key.replace('_', '-')} {value}" for key, value in change.items()]
                if machine.name != request.hardware.name:
                    flags.append(f"--hardware {_quoted(machine.name)}")
                flags.append(f"--instances {count}")
                yield Fix(
                    "combined", {**base, "instances": count}, " ".join(flags), f"{count} × {machine.name}, together"
                )
                return


_CANDIDATES: tuple[Callable[[Request], Iterator[Fix]], ...] = (
    _tensor_parallel,
    _kv_dtype,
    _weights_dtype,
    _both_dtypes,
    _instances,
    _memory,
    _hardware,
    _context,
    _concurrency,
)
