"""Why a request does not fit: what it needs, what there is, the largest that fits, and the fixes that would help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from capacity.planning.fixes import Fix, fixes_for, largest_concurrency, largest_context
from capacity.planning.plan import Plan, Verdict
from capacity.planning.workload import Request
from capacity.units import GIB


@dataclass(frozen=True, slots=True)
class Refusal:
    """The figures of a request that does not fit, and `fixes`, each of which was checked to make it fit."""

    code: str
    requested: Mapping[str, int]
    need_bytes: Mapping[str, int]
    have_bytes: int
    short_by_bytes: int
    largest_context_tokens: int
    largest_concurrency: int
    message: str
    fixes: tuple[Fix, ...] = ()
    retryable: bool = False
    retry_after_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The refusal as a JSON object."""
        return {
            "code": self.code,
            "retryable": self.retryable,
            "retry_after_s": self.retry_after_s,
            "message": self.message,
            "requested": dict(self.requested),
            "need_bytes": dict(self.need_bytes),
            "have_bytes": self.have_bytes,
            "short_by_bytes": self.short_by_bytes,
            "largest_that_fits": {
                "context_at_concurrency": self.largest_context_tokens,
                "concurrency_at_context": self.largest_concurrency,
            },
            "fixes": [fix.to_json() for fix in self.fixes],
        }


def refuse(request: Request, verdict: Verdict) -> Refusal:
    """The refusal of a request that `check` found not to fit, with its verified fixes, best first."""
    plan = verdict.plan
    requested = {
        "context": request.workload.context_tokens,
        "new_tokens": request.workload.output_tokens or 0,
        "concurrency": request.workload.concurrency,
    }
    host = int((request.hardware.ram_bytes or 0) * plan.utilization)
    message = (
        f"{request.model.name} with {requested['concurrency']} × {requested['context']} tokens ({plan.kv_dtype} KV) "
        f"does not fit on {plan.instances} × {request.hardware.name}: "
        f"{_shortage(verdict, plan)} short by {verdict.short_by_bytes / GIB:.2f} GiB"
    )
    return Refusal(
        code="does_not_fit",
        requested=requested,
        need_bytes=dict(plan.need_bytes) if verdict.pool == "device" else {"index": request.workload.index_bytes},
        have_bytes=plan.have_bytes if verdict.pool == "device" else host,
        short_by_bytes=verdict.short_by_bytes,
        largest_context_tokens=largest_context(request),
        largest_concurrency=largest_concurrency(request),
        message=message,
        fixes=tuple(fixes_for(request)),
    )


def _shortage(verdict: Verdict, plan: Plan) -> str:
    if verdict.pool == "host":
        return "main memory is"
    need, have = plan.need_total_bytes / GIB, plan.have_bytes / GIB
    return f"a rank needs {need:.2f} GiB and has {have:.2f} GiB,"
