"""Parameters of feed-forward layers: dense ones, and experts with their router."""

from __future__ import annotations

from capacity.model.config import Config
from capacity.model.parameter_parts import Part, linear


def dense(config: Config, width: int, name: str = "mlp") -> list[Part]:
    """A dense feed-forward layer of inner width `width`."""
    hidden, bias = config.integer("hidden_size"), config.resolve(config.family.mlp_bias)
    up = ["up_proj", "gate_proj"] if config.family.gated else ["up_proj"]
    found = [linear(f"{name}.{projection}", hidden, width, bias=bias) for projection in up]
    return [*found, linear(f"{name}.down_proj", width, hidden, bias=bias, bias_whole=True)]


def dense_width(config: Config, index: int) -> int:
    """Inner width of the dense layer `index`; some families differ by layer, or name it differently beside experts."""
    widths = config.get("intermediate_size")
    if isinstance(widths, list):
        return int(widths[index])
    if config.family.experts == "llama4":
        return config.integer("intermediate_size_mlp")
    if config.family.state == "mamba2" and config.family.shared_dense and not config.get("num_experts"):
        return config.integer("shared_expert_intermediate_size")
    if widths is None:
        return 4 * config.integer("hidden_size")
    if config.family.extra == "gemma4" and config.flag("use_double_wide_mlp"):
        count = config.integer("num_hidden_layers")
        return int(widths) * (2 if index >= count - (config.get("num_kv_shared_layers") or 0) else 1)
    return int(widths)


def has_experts(config: Config, index: int) -> bool:
    """Whether layer `index` routes to experts: as the file's list has it, else by the family's rule."""
    if config.family.extra == "gemma4":
        return config.flag("enable_moe_block")
    if not config.family.experts or not config.get("num_experts"):
        return False
    listed = config.get("mlp_layer_types")
    if isinstance(listed, list) and index < len(listed):
        return bool(listed[index] == "sparse")
    return _EXPERT_RULES[config.family.experts](config, index)


def _everywhere(config: Config, index: int) -> bool:
    return True


def _after_first_dense(config: Config, index: int) -> bool:
    return index >= config.integer("first_k_dense_replace", 0, minimum=0)


def _each_step(config: Config, index: int) -> bool:
    dense = config.get("mlp_only_layers") or []
    return index not in dense and (index + 1) % config.integer("decoder_sparse_step", 1) == 0


def _interleaved(config: Config, index: int) -> bool:
    chosen = config.get("moe_layers")
    if isinstance(chosen, list):
        return index in chosen
    return (index + 1) % config.integer("interleave_moe_layer_step", 1) == 0


def _at_offset(config: Config, index: int) -> bool:
    offset = config.integer("expert_layer_offset", minimum=0)
    return index % config.integer("expert_layer_period") == offset


def _within_interval(config: Config, index: int) -> bool:
    count = config.integer("num_hidden_layers")
    last = config.integer("moe_layer_end_index", count - 1, minimum=-1)
    within = config.integer("moe_layer_start_index", 0, minimum=0) <= index <= (last if last >= 0 else count - 1)
    return within and (index + 1) % config.integer("moe_layer_interval", 1) == 0


_EXPERT_RULES = {
    "all": _everywhere,
    "first_dense": _after_first_dense,
    "step": _each_step,
    "llama4": _interleaved,
    "period": _at_offset,
    "interval": _within_interval,
}


def _expert_width(config: Config) -> int:
    """Inner width of one routed expert."""
    return config.optional("moe_intermediate_size") or config.integer("intermediate_size")


def experts(config: Config) -> list[Part]:
    """Router, routed experts and shared experts of one layer."""
    family, hidden = config.family, config.integer("hidden_size")
    count, width = config.integer("num_experts"), _expert_width(config)
    into = config.optional("moe_latent_size") or hidden
    matrices = 3 if family.gated else 2
    found = [Part("mlp.router", hidden * count + (count if family.router_bias else 0), role="router")]
    biases = count * ((matrices - 1) * width + hidden) if family.expert_bias else 0
    found.append(Part("mlp.experts", count * matrices * into * width, "split", "expert", plain_elements=biases))
    if into != hidden:
        found.append(linear("mlp.latent_proj", 2 * hidden, into, "whole"))
    shared = _shared_width(config, width)
    if shared:
        found += dense(config, shared, "mlp.shared_experts")
    if family.shared_gate:
        found.append(Part("mlp.shared_expert_gate", hidden))
    if family.extra == "gemma4":
        found.append(Part("mlp.router.scale", hidden + count))
    return found


def _shared_width(config: Config, width: int) -> int:
    if config.family.shared_dense:
        return config.optional("shared_expert_intermediate_size")
    if config.family.experts == "llama4":
        return config.integer("intermediate_size")
    return width * config.optional("shared_experts")
