"""Every parameter of a model, counted from its configuration: what it is, how ranks share it, whether engines load it.

The shapes are those of the reference implementations; the counts are exact for the families of families.py. How ranks
share a part is how tensor-parallel engines do it: projections and experts are split, K and V follow the KV heads
(copied where ranks outnumber them), embeddings and the head are split by (padded) vocabulary, norms, routers and MLA's
down-projections are whole on every rank.
"""

from __future__ import annotations

from dataclasses import dataclass

from capacity.model.config import Config
from capacity.model.feed_forward import dense, dense_width, experts, has_experts
from capacity.model.layers import attention_shape, layer_kinds
from capacity.model.mixers import gated_delta_net, mamba1, mamba2
from capacity.model.parameter_parts import Part, linear
from capacity.model.vision import vision_parts


def parts_of(config: Config) -> list[Part]:
    """All parameters of `config`, layer by layer, then embeddings, head, speculative layers and vision tower."""
    if config.family.attention == "t5":
        return _t5(config)
    kinds = layer_kinds(config)
    found: list[Part] = []
    for index, kind in enumerate(kinds):
        found += [part.at(index) for part in _layer(config, index, kind)]
    found += _outside(config, len(kinds))
    found += _speculative(config, kinds)
    return found + vision_parts(config)


def _layer(config: Config, index: int, kind: str) -> list[Part]:
    family, hidden = config.family, config.integer("hidden_size")
    norm = hidden * (2 if family.norm_bias else 1)
    found = [Part("norms", family.norms * norm)]
    if family.extra == "falcon" and config.flag("parallel_attn", True) and not _two_norms(config):
        found = [Part("norms", norm)]
    if kind in ("state", "hybrid"):
        found += _STATES[family.state](config)
    if kind in ("full", "sliding", "chunked", "hybrid"):
        found += _mla(config) if family.attention == "mla" else _attention(config, index, kind)
    if family.experts == "pattern":  # one block a layer: attention, state, experts or feed-forward
        symbol = str(config.get("hybrid_override_pattern") or "")[index : index + 1]
        if symbol == "E":
            found += experts(config)
        elif symbol == "-":
            found += dense(config, config.integer("intermediate_size"))
        return found
    if has_experts(config, index):
        found += experts(config)
        if family.extra == "gemma4":
            found += [*dense(config, config.integer("intermediate_size")), Part("norms", 3 * norm)]
    else:
        found += dense(config, dense_width(config, index))
    return found + _extras(config, index)


_STATES = {"gdn": gated_delta_net, "mamba1": mamba1, "mamba2": mamba2}


def _two_norms(config: Config) -> bool:
    return config.flag("new_decoder_architecture") and config.get("num_ln_in_parallel_attn", 2) == 2


def _attention(config: Config, index: int, kind: str) -> list[Part]:
    family, hidden = config.family, config.integer("hidden_size")
    heads = config.integer("num_attention_heads")
    kv_heads, width = attention_shape(config, kind)
    queries = heads * width * (2 if family.query_gate else 1)
    bias = config.resolve(family.qkv_bias)
    found = [linear("self_attn.q_proj", hidden, queries, bias=bias)]
    reads_another = index >= config.integer("num_hidden_layers") - (config.get("num_kv_shared_layers") or 0)
    if not reads_another or family.extra == "gemma3n":  # Gemma-3n ships the unused projections of its sharing layers
        found.append(linear("self_attn.k_proj", hidden, kv_heads * width, "kv", bias, kv_heads=kv_heads))
        if not (family.extra == "gemma4" and kind == "full" and config.flag("attention_k_eq_v")):
            found.append(linear("self_attn.v_proj", hidden, kv_heads * width, "kv", bias, kv_heads=kv_heads))
    found.append(
        linear("self_attn.o_proj", heads * width, hidden, bias=config.resolve(family.out_bias), bias_whole=True)
    )
    if family.qk_norm and config.resolve(family.qk_norm_if):
        keys = 0 if reads_another and family.extra == "gemma4" else 1
        if family.qk_norm == "head":
            found.append(Part("self_attn.qk_norm", (1 + keys) * width))
        else:  # one vector over all heads, or one a head: the same count
            found.append(Part("self_attn.qk_norm", (heads + kv_heads) * width))
    if family.sinks:
        found.append(Part("self_attn.sinks", heads, "split"))
    return found


def _mla(config: Config) -> list[Part]:
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    rank, rope = config.integer("kv_lora_rank"), config.integer("qk_rope_head_dim")
    nope, value = config.integer("qk_nope_head_dim"), config.integer("v_head_dim")
    queries = heads * (nope + rope)
    query_rank = config.get("q_lora_rank")
    bias = config.flag("attention_bias")
    found: list[Part] = []
    if query_rank:
        found += [
            linear("self_attn.q_a_proj", hidden, query_rank, "whole", bias),
            Part("self_attn.q_a_layernorm", query_rank),
            linear("self_attn.q_b_proj", query_rank, queries),
        ]
    else:
        found.append(linear("self_attn.q_proj", hidden, queries))
    found += [
        linear("self_attn.kv_a_proj_with_mqa", hidden, rank + rope, "whole", bias),
        Part("self_attn.kv_a_layernorm", rank),
        linear("self_attn.kv_b_proj", rank, heads * (nope + value)),
        linear("self_attn.o_proj", heads * value, hidden, bias=bias, bias_whole=True),
    ]
    if config.get("index_head_dim") and query_rank:
        keys, index_heads = config.integer("index_head_dim"), config.integer("index_n_heads")
        found += [
            linear("self_attn.indexer.wq_b", query_rank, index_heads * keys, "whole"),
            linear("self_attn.indexer.wk", hidden, keys, "whole"),
            Part("self_attn.indexer.k_norm", 2 * keys),
            Part("self_attn.indexer.weights_proj", hidden * index_heads),
        ]
    return found


def _extras(config: Config, index: int) -> list[Part]:
    """Parts that only one family has."""
    hidden = config.integer("hidden_size")
    extra, small = config.family.extra, config.optional("hidden_size_per_layer_input")
    if extra == "apertus":
        return [Part("mlp.activation", 2)]
    if extra in ("gemma3n", "gemma4"):
        found = []
        if small:
            found.append(Part("per_layer_input", 2 * hidden * small + hidden, role="linear"))
        if extra == "gemma3n":
            inputs, rank = config.integer("altup_num_inputs"), config.integer("laurel_rank")
            found.append(Part("laurel", 2 * hidden * rank + hidden, role="linear"))
            found.append(Part("altup", hidden + inputs * inputs + inputs**3 + hidden * inputs + hidden))
        return found
    return []


def _outside(config: Config, count: int) -> list[Part]:
    """Embeddings, final norm and output head."""
    family, hidden = config.family, config.integer("hidden_size")
    vocabulary = config.integer("vocab_size")
    projected = config.optional("word_embed_proj_dim") or hidden
    found = [Part("embed_tokens", vocabulary * projected, "vocab", "embedding", rows=vocabulary)]
    if family.positions >= 0:
        rows = config.integer("max_position_embeddings") + family.positions
        found.append(Part("embed_positions", rows * hidden, role="embedding"))
    found.append(Part("norm", family.final_norms * hidden * (2 if family.norm_bias else 1)))
    if not config.top("tie_word_embeddings"):
        found.append(Part("lm_head", vocabulary * projected, "vocab", "head", rows=vocabulary))
    if config.resolve(family.head_bias):
        found.append(Part("lm_head.bias", vocabulary, "vocab", "head", rows=vocabulary))
    small = config.optional("hidden_size_per_layer_input")
    if family.extra in ("gemma3n", "gemma4") and small:
        rows = config.integer("vocab_size_per_layer_input")
        width = count * small
        found.append(Part("embed_tokens_per_layer", rows * width, "vocab", "embedding", rows=rows))
        found.append(Part("per_layer_model_projection", hidden * width + small, role="linear"))
    if family.extra == "gemma3n":
        found.append(Part("altup_projections", 2 * (config.integer("altup_num_inputs") - 1) * hidden * hidden))
    return found


# Families whose published checkpoints contain the multi-token-prediction layers of their configurations.
_SPECULATIVE = {
    "deepseek_v3",
    "deepseek_v32",
    "glm4_moe",
    "glm4_moe_lite",
    "glm_moe_dsa",
    "qwen3_5_moe_text",
    "qwen3_5_text",
    "qwen3_next",
}


def _speculative(config: Config, kinds: tuple[str, ...]) -> list[Part]:
    """Multi-token-prediction layers: in the files, and not loaded without speculative decoding."""
    count = config.integer("mtp_layers", 0, minimum=0)
    if not count or config.model_type not in _SPECULATIVE:
        return []
    hidden = config.integer("hidden_size")
    kind = "full" if "full" in kinds else kinds[-1]
    found: list[Part] = []
    for _ in range(count):
        found += [part.at(len(kinds)) for part in _layer(config, len(kinds) - 1, kind)]
        found.append(Part("mtp.eh_proj", 2 * hidden * hidden, role="linear"))
        found.append(Part("mtp.norms", 3 * hidden))
        if config.family.state != "gdn":  # which share the model's own table and head
            vocabulary = config.integer("vocab_size")
            found.append(Part("mtp.embeddings", 2 * vocabulary * hidden, "vocab", "embedding", rows=vocabulary))
    return [part.not_loaded() for part in found]


def _t5(config: Config) -> list[Part]:
    """Encoder and decoder of T5, mT5 and UMT5."""
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    inner, width = heads * config.integer("head_dim"), config.integer("intermediate_size")
    vocabulary = config.integer("vocab_size")
    gated = config.flag("is_gated_act") or str(config.get("feed_forward_proj", "")).startswith("gated")
    attention = 4 * hidden * inner
    feed_forward = (3 if gated else 2) * hidden * width
    encoder, decoder = config.integer("num_layers"), config.integer("num_decoder_layers", config.integer("num_layers"))
    tables = config.integer("relative_attention_num_buckets") * heads
    per_layer = config.model_type == "umt5"  # UMT5 has a table a layer, the others one a stack
    found = [Part("encoder", encoder * (attention + feed_forward), "split", "linear")]
    found += [Part("decoder", 2 * attention + feed_forward, "split", "linear").at(index) for index in range(decoder)]
    found.append(Part("norms", (2 * encoder + 3 * decoder + 2) * hidden))
    found.append(Part("relative_attention_bias", tables * (encoder + decoder if per_layer else 2)))
    found.append(Part("shared", vocabulary * hidden, "vocab", "embedding", rows=vocabulary))
    if not config.top("tie_word_embeddings"):
        found.append(Part("lm_head", vocabulary * hidden, "vocab", "head", rows=vocabulary))
    return found


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """All parameters in the files, and those that a token's forward pass multiplies (embedding rows left out)."""

    total: int
    active: int


def count_parameters(config: Config) -> ParameterCount:
    """The totals of `config`; `active` counts experts_per_token of the routed experts and no embedding table."""
    total = active = 0
    share = 1.0
    if config.get("num_experts"):
        share = config.integer("experts_per_token") / config.integer("num_experts")
    for part in parts_of(config):
        total += part.total_elements
        if part.loaded and part.role not in ("embedding", "vision"):
            active += round(part.total_elements * share) if part.role == "expert" else part.total_elements
    if config.top("tie_word_embeddings"):
        active += config.integer("vocab_size") * config.integer("hidden_size")  # the tied table is also the head
    return ParameterCount(total, active)
