"""Three scenarios for one workload: minimum, recommended (N+1) and ideal (N+2), by the exact or the reference method.

Exact: a rank's pool is what the plan leaves (device memory × utilisation − each term), and the ratio, applied once,
says how full that pool is planned to run; sessions a node are whole sessions a rank × replicas.
Reference: budget = (marketing HBM of the node − a flat overhead) × ratio, pooled; sessions = ⌊budget / KV⌋.
Both: nodes = ⌈concurrency × (1 + headroom) / sessions a node⌉ + spare nodes; the headroom is on the demand, never on
nodes already rounded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from capacity.errors import InvalidInput
from capacity.memory.kv import KvLayout, session_bytes
from capacity.planning.footprint import footprints
from capacity.planning.plan import host_short_bytes, tensor_parallel_choices
from capacity.planning.workload import Request
from capacity.precision import kv_format
from capacity.units import GIB, ceil_div

EXACT, REFERENCE = "exact", "reference"


@dataclass(frozen=True, slots=True)
class Policy:
    """Reserves of a scenario: `headroom` over the demand, `spare_nodes` for failures, `ratio` of the KV budget used."""

    headroom: float
    spare_nodes: int
    ratio: float

    def __post_init__(self) -> None:
        if not 0 <= self.headroom <= 10:
            raise InvalidInput("headroom", f"{self.headroom} is outside 0–10")
        if not 0 <= self.spare_nodes <= 100:
            raise InvalidInput("spare_nodes", f"{self.spare_nodes} is outside 0–100")
        if not 0 < self.ratio <= 1:
            raise InvalidInput("budget_ratio", f"{self.ratio} is outside 0–1")


POLICIES: Mapping[str, Policy] = {
    "minimum": Policy(0.0, 0, 0.70),
    "recommended": Policy(0.20, 1, 0.70),
    "ideal": Policy(0.30, 2, 0.65),
}


@dataclass(frozen=True, slots=True)
class Availability:
    """Probability that enough nodes are up: binomial, each up `node_availability` of the time, independent failures."""

    node_availability: float
    nodes: int
    needed_nodes: int
    availability: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario's figures, bytes inside. `nodes` is None where not even one session fits a node (see `infeasible`).

    `surviving_sessions` remain after as many nodes failed as there are spare ones. `availability` is None unless the
    availability of a node was given: no SLA figure follows from N+1 alone.
    """

    name: str
    policy: Policy
    kv_per_session_bytes: int
    kv_total_bytes: int
    node_memory_bytes: int
    overhead_bytes: int
    budget_per_node_bytes: int
    sessions_per_node: int
    needed_nodes: int | None
    nodes: int | None
    surviving_sessions: int | None
    covers_nominal: bool | None
    availability: Availability | None
    infeasible: str | None = None


@dataclass(frozen=True, slots=True)
class Sizing:
    """All scenarios of one request by one method and tensor parallelism (the largest, in the reference method)."""

    request: Request
    method: str
    tensor_parallel: int
    scenarios: tuple[Scenario, ...]

    def named(self, name: str) -> Scenario:
        """The scenario called `name`."""
        return next(scenario for scenario in self.scenarios if scenario.name == name)


def size(
    request: Request,
    method: str = EXACT,
    policies: Mapping[str, Policy] = POLICIES,
    overhead_gib: float | None = None,
    node_availability: float | None = None,
) -> Sizing:
    """The three scenarios of `request`.

    `overhead_gib` is the reference method's flat overhead a node and contradicts the exact one, which computes every
    term: both together would be counted twice, so that is InvalidInput.
    """
    if node_availability is not None and not 0 < node_availability < 1:
        raise InvalidInput("node_availability", f"{node_availability} is outside 0–1")
    if method == REFERENCE:
        return _reference(request, policies, overhead_gib, node_availability)
    if method != EXACT:
        raise InvalidInput("method", f"{method!r} is neither {EXACT!r} nor {REFERENCE!r}")
    if overhead_gib is not None:
        raise InvalidInput("overhead_gib", "goes with --method reference; the exact method computes every term")
    return _exact(request, policies, node_availability)


def _reference(
    request: Request, policies: Mapping[str, Policy], overhead_gib: float | None, node_availability: float | None
) -> Sizing:
    if overhead_gib is None:
        raise InvalidInput("overhead_gib", "the reference method needs the flat overhead a node")
    overhead = round(overhead_gib * GIB)
    node = request.hardware.marketing_bytes
    if not 0 <= overhead < node:
        raise InvalidInput("overhead_gib", f"{overhead_gib} GiB is outside 0–{node / GIB:.1f}, the node's memory")
    layout = KvLayout(kv_format(request.kv_dtype), encoder_tokens=request.workload.encoder_tokens)
    each = session_bytes(request.model.layers, request.workload.context_tokens, layout)
    found = []
    for name, policy in policies.items():
        budget = int((node - overhead) * Fraction(str(policy.ratio)))
        found.append(_scenario(request, name, policy, each, node, overhead, budget, budget // each, node_availability))
    ranks = tensor_parallel_choices(request)[-1]  # memory pooled over the node: one replica as wide as possible
    return Sizing(request, REFERENCE, ranks, tuple(found))


def _exact(request: Request, policies: Mapping[str, Policy], node_availability: float | None) -> Sizing:
    """All three scenarios run the same replicas: at the tensor parallelism that takes the fewest nodes in all."""
    sizings = [_exact_at(request, ranks, policies, node_availability) for ranks in tensor_parallel_choices(request)]
    if not sizings:
        raise InvalidInput("tensor_parallel", f"no count divides the heads of {request.model.name} on these devices")
    return min(sizings, key=_fewest_nodes)


def _fewest_nodes(sizing: Sizing) -> tuple[int, int, int]:
    nodes = [scenario.nodes for scenario in sizing.scenarios]
    return (sum(count is None for count in nodes), sum(count or 0 for count in nodes), sizing.tensor_parallel)


def _exact_at(request: Request, ranks: int, policies: Mapping[str, Policy], node_availability: float | None) -> Sizing:
    stages = footprints(request, ranks)
    replicas = request.hardware.devices // (ranks * request.engine.pipeline_parallel)
    group = ranks * request.engine.pipeline_parallel
    node = replicas * group * request.hardware.device.memory_bytes
    each = sum(stage.kv.session_bytes for stage in stages) * ranks
    overhead = node - replicas * ranks * sum(max(0, stage.pool_bytes) for stage in stages)
    found = []
    for name, policy in policies.items():
        share = Fraction(str(policy.ratio))
        pools = [int(max(0, stage.pool_bytes) * share) for stage in stages]
        fitting = min(pool // stage.kv.session_bytes for pool, stage in zip(pools, stages, strict=True))
        if host_short_bytes(request):
            fitting = 0  # the vector index does not fit in main memory
        budget = replicas * ranks * sum(pools)
        found.append(
            _scenario(request, name, policy, each, node, overhead, budget, fitting * replicas, node_availability)
        )
    return Sizing(request, EXACT, ranks, tuple(found))


def _scenario(
    request: Request,
    name: str,
    policy: Policy,
    each: int,
    node: int,
    overhead: int,
    budget: int,
    sessions: int,
    node_availability: float | None,
) -> Scenario:
    concurrency = request.workload.concurrency
    demand = math.ceil(concurrency * (1 + Fraction(str(policy.headroom))))
    needed = ceil_div(demand, sessions) if sessions else None
    nodes = needed + policy.spare_nodes if needed is not None else None
    surviving = needed * sessions if needed is not None else None
    availability = None
    if node_availability is not None and nodes is not None:
        enough = ceil_div(concurrency, sessions)
        availability = Availability(node_availability, nodes, enough, _at_least(enough, nodes, node_availability))
    return Scenario(
        name=name,
        policy=policy,
        kv_per_session_bytes=each,
        kv_total_bytes=each * concurrency,
        node_memory_bytes=node,
        overhead_bytes=overhead,
        budget_per_node_bytes=budget,
        sessions_per_node=sessions,
        needed_nodes=needed,
        nodes=nodes,
        surviving_sessions=surviving,
        covers_nominal=surviving >= concurrency if surviving is not None else None,
        availability=availability,
        infeasible=None if sessions else "not one session of this context fits a node",
    )


def _at_least(needed: int, nodes: int, availability: float) -> float:
    """P(at least `needed` of `nodes` are up), each up with probability `availability`, independently."""
    return sum(
        math.comb(nodes, up) * availability**up * (1 - availability) ** (nodes - up) for up in range(needed, nodes + 1)
    )
