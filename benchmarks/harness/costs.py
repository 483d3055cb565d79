"""Cost of 1,000 requests: a monolith on a GPU instance, or the LLM there and the rest on a CPU instance.

By the capacity model: sessions that fit, latency at that batch size, list prices of the catalogue. The catalogue has no
SageMaker price for CPU instances, so the break-even is given as well: the highest CPU price at which splitting pays.
"""

from __future__ import annotations

from typing import Any

from capacity import EngineSpec, Request, Workload, load_hardware, load_model, make_plan
from capacity.catalog import document
from capacity.planning.latency import estimate_latency

_INPUT_TOKENS, _OUTPUT_TOKENS = 700, 128
# Weights on the GPU besides the LLM in a monolith: the default embedder (22.7 M parameters in fp32), and a multilingual
# one (bge-m3, 568 M parameters in fp16).
_EMBEDDERS_BYTES = {"all-MiniLM-L6-v2": 90_868_376, "bge-m3": 1_136_000_000}


def per_thousand(
    model: str,
    gpu: str,
    cpu: str,
    *,
    context_tokens: int,
    retrieve_s: float,
    cpu_usd_per_hour: float | None,
) -> dict[str, Any]:
    """Both designs with the GPU at capacity. `retrieve_s`: CPU time of a retrieval, which limits the CPU instance."""
    hardware, cpu_machine = load_hardware(gpu), load_hardware(cpu)
    if hardware.price is None:
        raise SystemExit(f"the catalogue has no price for {gpu}")
    gpu_usd = hardware.price.usd_per_hour
    cpu_usd = cpu_machine.price.usd_per_hour if cpu_machine.price else cpu_usd_per_hour
    cores = next(instance["vcpu"] for instance in document("instances")["instances"] if instance["name"] == cpu)
    split = _requests_per_s(model, gpu, context_tokens, 0)
    # At scale, many GPU instances share a CPU instance; a single one needs a whole CPU instance.
    share = split["requests_per_s"] * retrieve_s / cores
    result: dict[str, Any] = {
        "model": model,
        "gpu_instance": gpu,
        "gpu_usd_per_hour": gpu_usd,
        "gpu_price": f"{hardware.price.kind}, {hardware.price.region}, {hardware.price.as_of}",
        "cpu_instance": cpu,
        "cpu_usd_per_hour": cpu_usd,
        "input_tokens": _INPUT_TOKENS,
        "output_tokens": _OUTPUT_TOKENS,
        "cpu_instances_per_gpu_instance": share,
        "split": {**split, **_split_usd(split["requests_per_s"], gpu_usd, cpu_usd, share)},
    }
    for embedder, embedder_bytes in _EMBEDDERS_BYTES.items():
        alone = _requests_per_s(model, gpu, context_tokens, embedder_bytes)
        worth_usd = gpu_usd * (split["requests_per_s"] / alone["requests_per_s"] - 1)
        result[f"monolith with {embedder}"] = {
            **alone,
            "usd_per_1000": gpu_usd / (3.6 * alone["requests_per_s"]),
            "break_even_cpu_usd_per_hour": {"one_gpu": worth_usd, "at_scale": worth_usd / share},
        }
    return result


def _split_usd(requests_per_s: float, gpu_usd: float, cpu_usd: float | None, share: float) -> dict[str, Any]:
    costs: dict[str, Any] = {"gpu_usd_per_1000": gpu_usd / (3.6 * requests_per_s)}
    if cpu_usd is not None:
        costs["usd_per_1000"] = {
            "one_gpu": (gpu_usd + cpu_usd) / (3.6 * requests_per_s),
            "at_scale": (gpu_usd + cpu_usd * share) / (3.6 * requests_per_s),
        }
    return costs


def _requests_per_s(model: str, gpu: str, context_tokens: int, embedder_bytes: int) -> dict[str, float]:
    """Throughput and latency with as many sessions as fit with `embedder_bytes` on the GPU."""
    workload = Workload(
        context_tokens, 1, input_tokens=_INPUT_TOKENS, output_tokens=_OUTPUT_TOKENS, embedder_bytes=embedder_bytes
    )
    request = Request(load_model(model), load_hardware(gpu), workload, EngineSpec(instances=1))
    verdict = make_plan(request)
    sessions = verdict.plan.sessions_per_instance
    latency = estimate_latency(request, verdict.plan.tensor_parallel, max(1, sessions))
    if not verdict.fits or latency is None:
        raise SystemExit(f"{model} does not fit {gpu}, or its speed is not known")
    # The GPU's time per request is the prefill plus its share of the batched decode steps.
    busy_s = latency.ttft_s + _OUTPUT_TOKENS * latency.tpot_s / latency.batch
    return {"sessions": sessions, "requests_per_s": 1 / busy_s, "ttft_s": latency.ttft_s, "tpot_s": latency.tpot_s}
