"""Which backend runs the LLM: decided from its config.json and the settings, before the memory is planned."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from typing import Literal, NamedTuple

from capacity import Model
from rag.errors import InvalidRequest, ModelRefused
from rag.settings import Settings

BackendName = Literal["openvino", "torch"]
# Tokens of a KV block of OpenVINO's CPU plugin, in windowed layers too.
BLOCK_TOKENS = 32


class BackendChoice(NamedTuple):
    """A backend and, where BACKEND=auto does not take OpenVINO, the reason."""

    name: BackendName
    reason: str | None = None

    @property
    def block_size_tokens(self) -> int | None:
        """Tokens of a KV block; None for torch, whose sessions have one slot each, as long as the context."""
        return BLOCK_TOKENS if self.name == "openvino" else None


def choose_backend(settings: Settings, model: Model, *, on_cpu: bool) -> BackendChoice:
    """OpenVINO on a CPU where it can run `model`, else torch, unless BACKEND names one.

    Raises ModelRefused where BACKEND=openvino is impossible, InvalidRequest for formats that torch does not support.
    """
    if settings.backend == "torch":
        reason: str | None = "BACKEND is torch"
    else:
        reason = _obstacle(settings, on_cpu=on_cpu) or _unsupported(settings, model)
    if reason is None and settings.backend == "auto" and model.has_experts:
        reason = "its graph would compute every expert for every token"
    if reason is None:
        return BackendChoice("openvino")
    if settings.backend == "openvino":
        raise ModelRefused(
            f"{model.name} can't run on OpenVINO: {reason}",
            field="BACKEND",
            value="openvino",
            remedy="set BACKEND=torch, or auto",
        )
    for name in ("weights", "kv_dtype"):
        if getattr(settings, name) is not None:
            raise InvalidRequest(
                f"{name.upper()} is for OpenVINO, and torch runs the LLM: {reason}",
                field=name.upper(),
                value=getattr(settings, name),
                remedy=f"leave {name.upper()} unset; DTYPE sets the format of both",
            )
    return BackendChoice("torch", None if settings.backend == "torch" else reason)


def _obstacle(settings: Settings, *, on_cpu: bool) -> str | None:
    """The reason against OpenVINO that does not depend on the model, if there is one."""
    if not on_cpu or settings.device.startswith("cuda"):
        return "the device is not a CPU"
    if importlib.util.find_spec("openvino") is None:
        return "openvino is not installed"
    if settings.dtype == "float16":
        return "CPUs compute in float32 or bfloat16"
    if "bfloat16" in (settings.dtype, settings.kv_dtype) and "BF16" not in _capabilities():
        return "this CPU has no bfloat16 instructions"
    return None


def _unsupported(settings: Settings, model: Model) -> str | None:
    """What of `model` its paged attention does not support."""
    config = model.config
    kinds = {layer.kind if layer.attends and layer.state is None else "recurrent or shared" for layer in model.layers}
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    parts = [rope, *(part for part in rope.values() if isinstance(part, Mapping))] if isinstance(rope, Mapping) else []
    rope_types = {part.get("rope_type") or part.get("type") for part in parts}
    cap = config.get("attn_logit_softcapping", 50.0 if config.model_type == "gemma2" else None)
    context = settings.context or model.max_context_tokens or 0
    obstacles = (
        (any(layer.cross for layer in model.layers), "it is an encoder–decoder"),
        (not kinds <= {"full", "sliding"}, f"its layers are {', '.join(sorted(kinds))}"),
        (bool(cap), "its attention scores are capped (attn_logit_softcapping)"),
        ("dynamic" in rope_types, "its rotary positions change with the length of the batch (rope_type dynamic)"),
        (
            "longrope" in rope_types and context > _original_context(rope),
            "its long rotary factors (rope_type longrope) would mix with the short ones in a batch",
        ),
        (model.quantization is not None, "its checkpoint is quantised"),
        (settings.weights is not None and model.has_experts, f"WEIGHTS={settings.weights} leaves experts out"),
    )
    return next((reason for holds, reason in obstacles if holds), None)


def _original_context(rope: Mapping[str, object]) -> int:
    original = rope.get("original_max_position_embeddings")
    return original if isinstance(original, int) else 0


@functools.cache
def _capabilities() -> tuple[str, ...]:
    """Number formats that OpenVINO has instructions for on this CPU."""
    import openvino  # noqa: PLC0415 - heavy, and needed for bfloat16 only

    return tuple(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
