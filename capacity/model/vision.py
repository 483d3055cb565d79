"""Parameters of vision towers, and of the projectors that join them to a language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from capacity.errors import InvalidInput
from capacity.model.config import Config
from capacity.model.parameter_parts import Part


def vision_parts(config: Config) -> list[Part]:
    """The tower's parameters by its vision_config, none without one; InvalidInput for a tower of unknown shape."""
    tower = config.raw.get("vision_config")
    if not isinstance(tower, Mapping) or not tower:
        return []
    hidden = config.integer("hidden_size")
    kind = str(tower.get("model_type") or config.outer_type)
    count = _COUNTERS.get(kind)
    if count is None:
        raise InvalidInput("vision_config.model_type", f"{kind!r} is a vision tower whose shape is not known here")
    total = count(tower, hidden, config.raw)
    # Engines split the feed-forward layers of a SigLIP tower and keep the rest of it whole; they split other towers.
    mlp = total
    if count is _siglip:
        width, inner = tower.get("hidden_size", 1152), tower.get("intermediate_size", 4304)
        mlp = tower.get("num_hidden_layers", 27) * (2 * width * inner + width + inner)
    audio = config.raw.get("audio_config")
    if isinstance(audio, Mapping) and audio.get("model_type") == "gemma4_audio":
        total += _gemma4_audio(audio, hidden)
    return [Part("vision_tower.mlp", mlp, "split", "vision"), Part("vision_tower", total - mlp, "whole", "vision")]


def _encoder_layer(width: int, inner: int, *, gated: bool = False, bias: bool = True, norms: int = 4) -> int:
    """Attention (4 square matrices), feed-forward, and norms counted in vectors of `width`."""
    matrices = 4 * width * width + (3 if gated else 2) * width * inner
    biases = (5 * width + (2 if gated else 1) * inner) if bias else 0
    return matrices + biases + norms * width


def _siglip(tower: Mapping[str, Any], hidden: int, raw: Mapping[str, Any]) -> int:
    width, inner = tower.get("hidden_size", 1152), tower.get("intermediate_size", 4304)
    layers, patch = tower.get("num_hidden_layers", 27), tower.get("patch_size", 14)
    positions = (tower.get("image_size", 896) // patch) ** 2
    body = layers * _encoder_layer(width, inner) + 2 * width
    return int(body + 3 * patch * patch * width + width + positions * width + width * hidden + width)


def _pixtral(tower: Mapping[str, Any], hidden: int, raw: Mapping[str, Any]) -> int:
    width, inner = tower.get("hidden_size", 1024), tower.get("intermediate_size", 4096)
    layers, patch = tower.get("num_hidden_layers", 24), tower.get("patch_size", 16)
    merge = raw.get("spatial_merge_size", 1)
    body = layers * _encoder_layer(width, inner, gated=True, bias=False, norms=2) + width + 3 * patch * patch * width
    join = width * hidden + hidden * hidden + ((merge * merge * width * width + width) if merge > 1 else 0)
    return int(body + join)


def _llama4(tower: Mapping[str, Any], hidden: int, raw: Mapping[str, Any]) -> int:
    width, inner = tower.get("hidden_size", 1408), tower.get("intermediate_size", 5632)
    layers, patch = tower.get("num_hidden_layers", 34), tower.get("patch_size", 14)
    positions = (tower.get("image_size", 336) // patch) ** 2 + 1
    into, out = tower.get("projector_input_dim", 4096), tower.get("projector_output_dim", 4096)
    adapter = inner * into + into * out
    body = layers * _encoder_layer(width, inner) + 4 * width + width + 3 * patch * patch * width
    return int(body + positions * width + adapter + tower.get("vision_output_dim", 4096) * hidden)


def _qwen2(tower: Mapping[str, Any], hidden: int, raw: Mapping[str, Any]) -> int:
    width = tower.get("embed_dim", 1280)
    inner, patch = int(width * tower.get("mlp_ratio", 4)), tower.get("patch_size", 14)
    merged, out = width * tower.get("spatial_merge_size", 2) ** 2, tower.get("hidden_size", hidden)
    body = tower.get("depth", 32) * _encoder_layer(width, inner)
    return int(body + 3 * 2 * patch * patch * width + merged * merged + merged + merged * out + out + 2 * width)


def _qwen2_5(tower: Mapping[str, Any], hidden: int, raw: Mapping[str, Any]) -> int:
    width, inner = tower.get("hidden_size", 1280), tower.get("intermediate_size", 3420)
    patch, merged = (
        tower.get("patch_size", 14),
        tower.get("hidden_size", 1280) * tower.get("spatial_merge_size", 2) ** 2,
    )
    layer = _encoder_layer(width, inner, gated=True, norms=2)
    body = tower.get("depth", 32) * layer + 3 * 2 * patch * patch * width
    out = tower.get("out_hidden_size", hidden)
    return int(body + merged * merged + merged + merged * out + out + width)


def _qwen3(tower: Mapping[str, Any], hidden: int, raw: Mapping[str, Any]) -> int:
    width, inner = tower.get("hidden_size", 1152), tower.get("intermediate_size", 4304)
    patch, merged = tower.get("patch_size", 16), width * tower.get("spatial_merge_size", 2) ** 2
    out = tower.get("out_hidden_size", hidden)
    body = tower.get("depth", 27) * _encoder_layer(width, inner) + 3 * 2 * patch * patch * width + width
    body += tower.get("num_position_embeddings", 2304) * width
    merger = merged * merged + merged + merged * out + out
    deep = len(tower.get("deepstack_visual_indexes") or [])
    return int(body + merger + 2 * width + deep * (merger + 2 * merged))


def _gemma4(tower: Mapping[str, Any], hidden: int, raw: Mapping[str, Any]) -> int:
    width, inner = tower.get("hidden_size", 768), tower.get("intermediate_size", 3072)
    patch, head = tower.get("patch_size", 16), tower.get("head_dim", 64)
    layer = 4 * width * width + 3 * width * inner + 2 * head + 4 * width
    embedding = 2 * tower.get("position_embedding_size", 10240) * width + 3 * patch * patch * width
    return int(tower.get("num_hidden_layers", 16) * layer + embedding + width * hidden)


def _gemma4_audio(tower: Mapping[str, Any], hidden: int) -> int:
    width, out = tower.get("hidden_size", 1024), tower.get("output_proj_dims", 1536)
    layer = 24 * width * width + 14 * width + width // tower.get("num_attention_heads", 8)
    front = 128 * 9 + 128 + 32 * 128 * 9 + 32 + width * width
    return int(tower.get("num_hidden_layers", 12) * layer + front + width * out + out + hidden * out)


_COUNTERS = {
    "gemma4_vision": _gemma4,
    "siglip_vision_model": _siglip,
    "gemma3": _siglip,
    "pixtral": _pixtral,
    "mistral3": _pixtral,
    "llama4_vision_model": _llama4,
    "llama4": _llama4,
    "qwen2_vl": _qwen2,
    "qwen2_5_vl": _qwen2_5,
    "qwen2_5_vl_vision": _qwen2_5,
    "qwen2_vl_vision": _qwen2,
    "qwen3_vl": _qwen3,
    "qwen3_vl_vision": _qwen3,
    "qwen3_vl_moe": _qwen3,
    "qwen3_vl_moe_vision": _qwen3,
    "qwen3_5": _qwen3,
    "qwen3_5_vision": _qwen3,
    "qwen3_5_moe": _qwen3,
    "qwen3_5_moe_vision": _qwen3,
}
