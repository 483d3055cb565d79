"""TTFT and TPOT from a roofline: an estimate with its band, until a measurement of the machine replaces it.

FLOPs a token = 2·P_active + 4·Σ_layers heads·width·min(T, window). Prefill is bound by arithmetic, decode by reading
weights and KV: TPOT(B) = max((weights touched(B) + ΣKV)/(TP·BW·0.8), B·FLOPs/(TP·peak·MFU)) + launches + communication,
weights touched = shared + E·(1 − (1 − k/E)^B)·bytes of an expert. Sources: catalog/overheads.json, roofline_efficiency.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from capacity.memory.kv import KvLayout, session_bytes
from capacity.memory.weights import rank_weights
from capacity.model.layers import Layer
from capacity.planning.measurements import MeasuredLatency
from capacity.planning.workload import Request
from capacity.precision import kv_format
from capacity.units import largest

# Published models of this kind differ from measurements by 29 to 36 %.
BAND = 0.35
_BANDWIDTH_SHARE = 0.8
# Measured (prefill, decode) share of the dense peak, by compute capability.
_MFU = {9.0: (0.45, 0.30), 8.0: (0.38, 0.18), 8.9: (0.32, 0.08)}
_DEFAULT_MFU = (0.38, 0.18)
_KERNELS_PER_LAYER = 10
_KERNEL_S = 3e-6
# An all-reduce of a decode step: two a layer; 10 µs over NVLink, 25 µs over PCIe, and the bytes at link speed.
_ALL_REDUCE_S = 12e-6
_LINK_BYTES_PER_S = 200e9


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds and their band; `label` is estimated or measured, `bound` what limits decode."""

    ttft_s: float
    tpot_s: float
    label: str
    band: float
    bound: str
    batch: int
    input_tokens: int
    output_tokens: int

    @property
    def request_s(self) -> float:
        """Time from the question to the last token of the answer."""
        return self.ttft_s + (self.output_tokens - 1) * self.tpot_s

    def range_of(self, seconds: float) -> tuple[float, float]:
        """The lower and upper end of the band around a figure."""
        return seconds * (1 - self.band), seconds * (1 + self.band)


@dataclass(frozen=True, slots=True)
class Objective:
    """The most sessions a replica that meet a latency objective, or the term that makes it infeasible.

    `infeasible` is None, prefill (the prompt alone takes `needed_s`) or decode (a token of one session alone does).
    A shorter prompt or faster arithmetic helps prefill, fewer weight bytes or more bandwidth decode.
    """

    max_batch: int
    infeasible: str | None = None
    needed_s: float | None = None


def tokens_of(request: Request) -> tuple[int, int]:
    """(input, output) tokens of a typical request: as given, else the context less an answer of 256 tokens."""
    load = request.workload
    out = load.output_tokens or min(256, max(1, load.context_tokens // 2))
    into = load.input_tokens or max(1, load.context_tokens - out)
    return into, out


def estimate_latency(
    request: Request, tensor_parallel: int, batch: int, measured: MeasuredLatency | None = None
) -> Latency | None:
    """TTFT and TPOT with `batch` sessions decoding on a replica; None where the device's speed is not known."""
    into, out = tokens_of(request)
    if measured is not None:
        return _from_measurement(measured, batch, into, out)
    device = request.hardware.device
    peak = device.peak(_arithmetic(request))
    if not device.bandwidth_bytes_per_s or not peak:
        return None
    prefill_share, decode_share = _MFU.get(device.compute_capability or 0.0, _DEFAULT_MFU)
    weights = rank_weights(
        request.model, tensor_parallel, request.engine.pipeline_parallel, request.engine.weights_dtype
    )
    held = sum(stage.parameter_bytes for stage in weights) * tensor_parallel
    bandwidth = tensor_parallel * device.bandwidth_bytes_per_s * _BANDWIDTH_SHARE
    communication = _communication_s(request, tensor_parallel, into)
    prefill = into * _flops_per_token(request, into // 2) / (tensor_parallel * peak * prefill_share)
    ttft = max(prefill, held / bandwidth) + communication + _launch_s(request)
    reading = (_touched_bytes(request, held, batch) + batch * _kv_read_bytes(request, into + out // 2)) / bandwidth
    arithmetic = batch * _flops_per_token(request, into + out // 2) / (tensor_parallel * peak * decode_share)
    fixed = _launch_s(request) + _communication_s(request, tensor_parallel, batch)
    bound = "memory" if reading >= arithmetic else "arithmetic"
    return Latency(ttft, max(reading, arithmetic) + fixed, "estimated", BAND, bound, batch, into, out)


def _from_measurement(measured: MeasuredLatency, batch: int, into: int, out: int) -> Latency:
    """As measured: the lines through TTFT over prompt tokens and through TPOT over sessions."""
    ttft = measured.ttft_floor_s + into / measured.prefill_tokens_per_s
    tpot = measured.tpot_s + (batch - 1) * measured.tpot_added_s
    return Latency(ttft, tpot, "measured", 0.0, "measured", batch, into, out)


def _arithmetic(request: Request) -> str:
    """The dtype that the matrix units compute in: fp8 where the weights are fp8 and the card has it, else bf16."""
    name = request.engine.weights_dtype or (
        request.model.quantization.weights.name if request.model.quantization else request.model.dtype
    )
    return "fp8" if name.startswith("fp8") and request.hardware.device.peak_flops.get("fp8") else "bf16"


def _flops_per_token(request: Request, context: int) -> float:
    """Arithmetic of one token with `context` tokens behind it."""
    width = request.model.attention_width
    attended = sum(min(context, layer.window_tokens or context) for layer in request.model.layers if layer.attends)
    return 2.0 * request.model.parameters.active + 4.0 * width * attended


def _touched_bytes(request: Request, held: int, batch: int) -> float:
    """Weight bytes that a decode step reads: all but the experts that no session's token is routed to."""
    experts = request.model.config.get("num_experts")
    if not experts or not request.model.has_experts:
        return float(held)
    routed = sum(
        len(group.layers) * group.part.elements for group in request.model.groups if group.part.role == "expert"
    )
    total = request.model.parameters.total
    share = routed / total if total else 0.0
    if request.model.quantization is not None and request.model.quantization.weights.scope == "experts":
        plain = (total - routed) * 2
        share = 1 - plain / held if held > plain else share
    chosen = request.model.config.integer("experts_per_token") / int(experts)
    return held * (1 - share) + held * share * (1 - (1 - chosen) ** batch)


def _kv_read_bytes(request: Request, tokens: int) -> float:
    """KV that a step reads for one session, over all ranks; a sparse indexer reads only its top-k of the latents."""
    layout = KvLayout(kv_format(request.kv_dtype), encoder_tokens=request.workload.encoder_tokens)
    top = request.model.config.get("index_topk")
    if not top or tokens <= top:
        return float(session_bytes(request.model.layers, tokens, layout))
    latents = [Layer(layer.kind, latent_dim=layer.latent_dim) for layer in request.model.layers]
    keys = Fraction(tokens * sum(layer.indexer_bytes for layer in request.model.layers))
    return float(session_bytes(latents, top, layout) + keys)


def _launch_s(request: Request) -> float:
    return len(request.model.layers) * _KERNELS_PER_LAYER * _KERNEL_S


def _communication_s(request: Request, tensor_parallel: int, tokens: int) -> float:
    if tensor_parallel == 1:
        return 0.0
    moved = 2 * tokens * request.model.hidden_size * 2 * (tensor_parallel - 1) / tensor_parallel
    return 2 * len(request.model.layers) * (_ALL_REDUCE_S + moved / _LINK_BYTES_PER_S)


def largest_batch(
    request: Request,
    tensor_parallel: int,
    sessions: int,
    ttft_s: float | None,
    tpot_s: float | None,
    measured: MeasuredLatency | None = None,
) -> Objective | None:
    """The most of a replica's `sessions` (as memory allows) that meet both objectives; None if speed is unknown."""
    alone = estimate_latency(request, tensor_parallel, 1, measured)
    if alone is None:
        return None
    if ttft_s is not None and alone.ttft_s > ttft_s:
        return Objective(0, "prefill", alone.ttft_s)
    if tpot_s is not None and alone.tpot_s > tpot_s:
        return Objective(0, "decode", alone.tpot_s)

    def meets(batch: int) -> bool:
        found = estimate_latency(request, tensor_parallel, batch, measured)
        return (
            found is not None
            and (tpot_s is None or found.tpot_s <= tpot_s)
            and (ttft_s is None or found.ttft_s <= ttft_s)
        )

    return Objective(largest(sessions, meets))
