"""What each layer of a model stores in the KV cache, for how many tokens, and how it is sharded."""

from __future__ import annotations

from dataclasses import dataclass

from capacity.errors import InvalidInput, UnknownName
from capacity.model.config import Config


@dataclass(frozen=True, slots=True)
class RecurrentState:
    """The recurrent state of a linear-attention or state-space layer: fixed bytes a session, whatever its length.

    The state proper is `heads` × `head_elements` at `state_bytes` each and is split by head; the convolution keeps
    `conv_width` past columns of `split_channels` (split over the ranks) plus `group_channels` (a block a group, which
    ranks replicate where they outnumber the groups), at `conv_bytes` each.
    """

    heads: int
    head_elements: int
    split_channels: int
    conv_width: int
    group_channels: int = 0
    groups: int = 1
    state_bytes: int = 4
    conv_bytes: int = 2


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer. `attends` is false for layers that own no keys and values (state, feed-forward or sharing layers).

    `window_tokens` bounds the tokens it keeps; None means all of them. `latent_dim` is an MLA layer's one vector a
    token (kv_lora_rank + qk_rope_head_dim), held whole by every rank; `indexer_bytes` the sparse indexer's key a token.
    `cross` marks a decoder layer that also keeps keys and values of the encoder's tokens.
    """

    kind: str
    kv_heads: int = 0
    k_dim: int = 0
    v_dim: int = 0
    window_tokens: int | None = None
    latent_dim: int = 0
    indexer_bytes: int = 0
    cross: bool = False
    state: RecurrentState | None = None

    @property
    def attends(self) -> bool:
        """Whether it owns keys and values."""
        return bool(self.kv_heads or self.latent_dim)


_FULL = {"full_attention", "attention", "*", "deepseek_sparse_attention", "hybrid"}
_LOCAL = {"sliding_attention"}
_CHUNKED = {"chunked_attention"}
_STATE = {"linear_attention", "mamba", "mamba2", "M"}
_NONE = {"mlp", "moe", "-", "E"}


def layers_of(config: Config) -> tuple[Layer, ...]:
    """Every layer of `config`, in order. Raises InvalidInput or UnknownName for a pattern that is not understood."""
    kinds = layer_kinds(config)
    if config.family.attention == "t5":
        width = config.integer("head_dim")
        heads = config.integer("num_attention_heads")
        return tuple(Layer("full", heads, width, width, cross=True) for _ in kinds)
    if config.family.attention == "mla":
        latent = config.integer("kv_lora_rank") + config.integer("qk_rope_head_dim")
        # The indexer keeps one fp8 key and one fp32 scale per 128 of its values.
        index = config.optional("index_head_dim")
        return tuple(Layer("mla", latent_dim=latent, indexer_bytes=index + 4 * -(-index // 128)) for _ in kinds)
    return tuple(_layer(config, kind, index) for index, kind in enumerate(kinds))


def layer_kinds(config: Config) -> tuple[str, ...]:
    """The kind of every layer: full, sliding, chunked, state, none (no cache of its own), hybrid (full and state)."""
    names = _declared(config)
    if names is None:
        names = _by_rule(config)
    known = {name: kind for kind, group in _GROUPS.items() for name in group}
    kinds = []
    for name in names:
        if name not in known:
            raise UnknownName("layer type", str(name), known)
        kinds.append(known[name])
    if "sliding" in kinds and not config.get("sliding_window"):
        kinds = ["full" if kind == "sliding" else kind for kind in kinds]
    if config.family.extra == "parallel_state":
        kinds = ["hybrid"] * len(kinds)
    if config.family.extra == "gemma4" and kinds:
        kinds[-1] = "full"  # its last layer always attends to everything
    return tuple(kinds)


_GROUPS = {"full": _FULL, "sliding": _LOCAL, "chunked": _CHUNKED, "state": _STATE, "none": _NONE}


def _declared(config: Config) -> list[str] | None:
    """The layer pattern given in the file, None without one."""
    pattern = config.get("hybrid_override_pattern")
    if isinstance(pattern, str):
        return list(pattern)
    layers = config.get("layer_types")
    if layers is None:
        return None
    count = config.get("num_hidden_layers")
    if not isinstance(layers, list) or (config.explicit("num_hidden_layers") and len(layers) != count):
        raise InvalidInput(
            "layer_types", f"{config.source} lists {_length(layers)} layers, num_hidden_layers is {count}"
        )
    return [str(name) for name in layers]


def _length(layers: object) -> object:
    return len(layers) if isinstance(layers, list) else repr(layers)


def _by_rule(config: Config) -> list[str]:
    """The family's layer pattern, for a file without one."""
    count, family = config.integer("num_hidden_layers"), config.family
    if family.attention == "t5":
        return ["full_attention"] * config.integer("num_decoder_layers", count)
    if family.state:
        return [_state_rule(config, index) for index in range(count)]
    if family.windows == "chunked":
        period = config.integer("no_rope_layer_interval", family.window_period)
        rotary = config.get("no_rope_layers") or [int((index + 1) % period != 0) for index in range(count)]
        chunked = bool(config.get("attention_chunk_size"))
        return ["chunked_attention" if chunked and turns else "full_attention" for turns in rotary]
    rule = _WINDOW_RULES[family.windows] if config.get("sliding_window") else _never
    return ["sliding_attention" if rule(config, index) else "full_attention" for index in range(count)]


def _never(config: Config, index: int) -> bool:
    return False


def _uniform(config: Config, index: int) -> bool:
    return True


def _alternate(config: Config, index: int) -> bool:
    return index % 2 == 0


def _beyond_first(config: Config, index: int) -> bool:
    """Qwen's rule: only with use_sliding_window, from layer max_window_layers on."""
    first = config.integer("max_window_layers", config.integer("num_hidden_layers"), minimum=0)
    return config.flag("use_sliding_window") and index >= first


def _all_but_every(config: Config, index: int) -> bool:
    """All layers but every n-th; some files give the period as a string of L (local) and G (global)."""
    period = config.get("sliding_window_pattern") or config.family.window_period
    if isinstance(period, str):
        return period[index % len(period)] == "L"
    return bool((index + 1) % int(period))


_WINDOW_RULES = {
    "none": _never,
    "uniform": _uniform,
    "qwen": _beyond_first,
    "alternate": _alternate,
    "every": _all_but_every,
}


def _state_rule(config: Config, index: int) -> str:
    if config.family.extra == "parallel_state":
        return "hybrid"
    if config.family.state == "gdn":
        return "linear_attention" if (index + 1) % config.integer("full_attention_interval", 4) else "full_attention"
    if config.family.state == "mamba1":
        period, offset = config.integer("attn_layer_period"), config.integer("attn_layer_offset", minimum=0)
        return "full_attention" if index % period == offset else "mamba"
    attending = config.get("attn_layer_indices")
    if attending is None:
        raise InvalidInput("layer_types", f"missing in {config.source}: it lists the attention layers")
    return "full_attention" if index in attending else "mamba"


def _layer(config: Config, kind: str, index: int) -> Layer:
    if kind in ("state", "none"):
        return Layer(kind, state=state_of(config) if kind == "state" else None)
    count = config.integer("num_hidden_layers")
    shared = config.optional("num_kv_shared_layers")
    if index >= count - shared:
        return Layer("none")  # reads the cache of an earlier layer of its type
    heads, width = attention_shape(config, kind)
    value = config.optional("v_head_dim") or width
    if kind == "sliding":
        return Layer("sliding", heads, width, value, window_tokens=config.integer("sliding_window"))
    if kind == "chunked":
        return Layer("chunked", heads, width, value, window_tokens=config.integer("attention_chunk_size"))
    return Layer("full", heads, width, value, state=state_of(config) if kind == "hybrid" else None)


def attention_shape(config: Config, kind: str) -> tuple[int, int]:
    """(KV heads, head width) of an attention layer of `kind`; in one family full layers have another shape."""
    if config.family.extra == "gemma4" and kind == "full":
        heads = config.kv_heads
        if config.flag("attention_k_eq_v") and config.get("num_global_key_value_heads"):
            heads = config.integer("num_global_key_value_heads")
        return heads, config.integer("global_head_dim")
    return config.kv_heads, config.head_dim


def state_of(config: Config) -> RecurrentState:
    """The recurrent state of one state layer. Its dtype is the file's, else fp32 (convolutions bf16)."""
    state_bytes = {"float32": 4, "bfloat16": 2, "float16": 2}.get(str(config.get("ssm_dtype", "float32")), 4)
    if config.family.state == "gdn":
        keys, values = config.integer("linear_num_key_heads"), config.integer("linear_num_value_heads")
        key_dim, value_dim = config.integer("linear_key_head_dim"), config.integer("linear_value_head_dim")
        return RecurrentState(
            heads=values,
            head_elements=key_dim * value_dim,
            split_channels=2 * keys * key_dim + values * value_dim,
            conv_width=config.integer("linear_conv_kernel_dim") - 1,
            state_bytes=state_bytes,
        )
    size, width = config.integer("ssm_state_size"), config.integer("conv_kernel") - 1
    if config.family.state == "mamba1":
        inner = config.integer("mamba_expand") * config.integer("hidden_size")
        return RecurrentState(inner, size, inner, width, state_bytes=state_bytes)
    heads, head_dim = config.integer("ssm_heads"), config.integer("ssm_head_dim")
    groups = config.integer("ssm_groups")
    return RecurrentState(
        heads=heads,
        head_elements=head_dim * size,
        split_channels=heads * head_dim,
        conv_width=width,
        group_channels=2 * size,
        groups=groups,
        state_bytes=state_bytes,
    )
